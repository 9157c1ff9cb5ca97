"""The members of the family, by name. A member is one file here and its lines in this table."""

from detrcli.variants.detr import DETRConfig

VARIANTS: dict[str, DETRConfig] = {
    "detr-r50": DETRConfig(),
    "detr-r50-dc5": DETRConfig(dilated=True),
    "detr-r101": DETRConfig(backbone="resnet101"),
    "detr-r101-dc5": DETRConfig(backbone="resnet101", dilated=True),
}
