"""`detr visualize-attn`: attention, and relevance beside it."""
