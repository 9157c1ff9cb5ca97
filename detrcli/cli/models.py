"""`detr models`: what there is to choose from."""

from detrcli.cli.options import Debug, Json


def models(json: Json = False, debug: Debug = False) -> None:
    """List the models, their backbones and their parameters."""
    import torch

    from detrcli.cli.console import print_json, print_table
    from detrcli.variants import VARIANTS
    from detrcli.variants.detr import build

    rows = []
    for name, config in VARIANTS.items():
        with torch.device("meta"):  # counts without allocating
            parameters = sum(p.numel() for p in build(config).parameters())
        rows.append((name, config.backbone + (" dilated" if config.dilated else ""), parameters))

    columns = ("name", "backbone", "parameters")
    if json:
        listed = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"schema": "detr.models/1", "models": listed})
    else:
        print_table(columns, rows)
