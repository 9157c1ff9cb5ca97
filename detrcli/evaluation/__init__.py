"""Average precision: what was found beside the truth, as written."""
