"""`detr match-debug`: of one image, of a data set, and of a training."""
