"""Looking inside a model. Nothing here draws."""
