"""Training: from settings and data to a run folder that loses nothing."""
