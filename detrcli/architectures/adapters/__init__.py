"""The detection transformers of Hugging Face transformers, computed by it: what is ours is a view of each."""
