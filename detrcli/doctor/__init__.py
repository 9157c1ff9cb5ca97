"""What is probably wrong with data or a training, most likely first, each with its evidence and remedy."""
