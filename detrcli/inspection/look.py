"""Attention in an image, of the kind, queries, layers and heads that the user selects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from detrcli.data.layouts.coco import Mask, masks_of
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.stream import ImageSource
from detrcli.inspection import attention
from detrcli.inspection.record import Point, check_points, record_image, select_heads, select_layers, select_queries
from detrcli.inspection.relevance import compare_maps
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter

Kind = Literal["cross", "encoder", "self", "mask", "relevance", "faithfulness"]


def inspect_attention(
    detector: Detector,
    image: ImageSource,
    *,
    queries: Sequence[int] | None = None,
    threshold: float = 0.7,
    layers: str | int = "last",
    heads: str | int = "mean",
    kind: Kind = "cross",
    points: Sequence[Point] = (),
    masks: str | Path | Sequence[Mask] | None = None,
    reporter: Reporter = SILENT,
) -> attention.AttentionFindings:
    """Return the attention of a model in an image.

    - Kinds: `cross`, the decoder's cross-attention; `encoder`, the encoder's self-attention at `points`, in pixels;
      `self`, the decoder's self-attention; `mask`, the attention of the mask head, and the masks; `relevance`,
      gradient-weighted relevance beside attention; `faithfulness`, both, measured by deletion and insertion.
    - `queries` are by default all with a score of at least `threshold`.
    - `layers` is `last`, `all` or a number from 0; `heads` is `mean`, `all` or a number from 0.
    - `masks` are masks of objects, or a COCO file with them. With relevance and faithfulness, the share of each map
      inside the mask of the query's object is measured.
    """
    compared = kind in ("relevance", "faithfulness")
    if (kind == "encoder") != bool(points):
        raise UsageError(f"{argument('kind', 'encoder')} and {argument('points')} require each other.")
    if points and queries:
        raise UsageError(f"Give {argument('points')} or {argument('queries')}, not both.")
    if compared and "all" in (layers, heads):
        raise UsageError(f"{kind.capitalize()} compares a single layer with one head or their mean, not with all.")
    if kind == "mask" and layers != "last":
        raise UsageError(f"{argument('layers', layers)}: only the last layer has masks.")
    if masks is not None and not compared:
        raise UsageError(f"{argument('masks')} requires the kind relevance or faithfulness.")
    record = record_image(detector, image)
    inspectable = record.inspectable
    if kind == "mask":  # `Inspectable` does not cover the mask head
        return attention.mask_attention(record, select_queries(record, queries, threshold), heads)
    if kind == "encoder":
        inspectable.require("encoder attention")
        check_points(points, record.image.width, record.image.height)
        layer_numbers = select_layers(layers, inspectable.encoder_layers)
        return attention.encoder_attention(record, points, layer_numbers, select_heads(heads, inspectable.heads))
    inspectable.require(kind if kind == "relevance" else "query attention" if kind == "self" else "cross-attention")
    layer_numbers = select_layers(layers, inspectable.decoder_layers)
    head_numbers, selected = select_heads(heads, inspectable.heads), select_queries(record, queries, threshold)
    if not compared:
        attention_of = attention.cross_attention if kind == "cross" else attention.query_attention
        return attention_of(record, selected, layer_numbers, head_numbers)
    if isinstance(masks, str | Path):
        masks = masks_of(Path(masks), record.name, *record.size)
    layer, head, measured = layer_numbers[0], head_numbers[0], kind == "faithfulness"
    return compare_maps(record, selected, layer, head, measured=measured, masks=masks, reporter=reporter)
