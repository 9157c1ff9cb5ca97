"""Detection transformers of Hugging Face transformers, which builds and computes them."""
