"""How others name the tensors that we have."""

import re

# Ours to that of the published checkpoints.
PUBLISHED = (
    (r"^backbone\.", "backbone.0."),
    (r"^position\.rows\.", "backbone.1.row_embed."),
    (r"^position\.columns\.", "backbone.1.col_embed."),
    (r"^projection\.", "input_proj."),
    (r"^(encoder|decoder)\.", r"transformer.\1."),
    (r"\.self_attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.feed_forward\.", "."),
    (r"\.add_norm(\d)\.norm\.", r".norm\1."),
    (r"^queries\.", "query_embed."),
    (r"^class_head\.", "class_embed."),
    (r"^box_head\.", "bbox_embed."),
)


def published(name: str) -> str:
    """The published checkpoints' name of our tensor."""
    for ours, theirs in PUBLISHED:
        name = re.sub(ours, theirs, name)
    return name
