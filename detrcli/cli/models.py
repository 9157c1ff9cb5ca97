"""`detr models`: what there is to choose from."""

from detrcli.cli.options import Debug, Json


def models(json: Json = False, debug: Debug = False) -> None:
    """List the published weights and their models."""
    import torch

    from detrcli.cli.console import print_json, print_table
    from detrcli.variants.detr import AS_PUBLISHED, build
    from detrcli.weights.download import cached_path
    from detrcli.weights.registry import PUBLISHED

    rows = []
    for name, known in PUBLISHED.items():
        parameters = None
        if known.panoptic:
            backbone = "mask head: to come"
        else:
            config = AS_PUBLISHED[name]
            backbone = config.backbone + (" dilated" if config.dilated else "")
            with torch.device("meta"):  # counts without allocating
                parameters = sum(p.numel() for p in build(config).parameters())
        rows.append(
            (name, backbone, parameters, known.ap, known.bytes, cached_path(known.url, known.sha256).exists())
        )

    if json:
        keys = ("name", "backbone", "parameters", "AP", "bytes", "cached")
        listed = [dict(zip(keys, row, strict=True)) for row in rows]
        print_json({"schema": "detr.models/1", "models": listed})
    else:
        print_table(
            ("name", "backbone", "parameters", "COCO AP", "MB", "in cache"),
            [
                (name, backbone, parameters, ap, size and round(size / 1e6), "yes" if cached else "no")
                for name, backbone, parameters, ap, size, cached in rows
            ],
        )
