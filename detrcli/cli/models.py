"""`detr models`: what there is to choose from."""

from detrcli.cli.options import Debug, Json


def models(json: Json = False, debug: Debug = False) -> None:
    """List the weights that have a name, and their models."""
    import torch

    from detrcli.cli.console import print_json, print_table
    from detrcli.variants import preset, variant_of
    from detrcli.weights.download import cached_path
    from detrcli.weights.load import load_weights
    from detrcli.weights.registry import PUBLISHED, SHIPPED

    rows = []
    for name, known in PUBLISHED.items():
        parameters = None
        if known.panoptic:
            backbone = "mask head: to come"
        else:
            config = preset(name)
            variant = variant_of(config)
            backbone = variant.summary(config)
            with torch.device("meta"):  # counts without allocating
                parameters = sum(p.numel() for p in variant.build(config).parameters())
        here = cached_path(known.url, known.sha256).exists()
        rows.append((name, backbone, parameters, "COCO val2017", known.ap, known.bytes, here))
    for name, shipped in SHIPPED.items():
        weights = load_weights(name)
        parameters = sum(p.numel() for p in weights.model().parameters())
        ap = round(100 * shipped.record["metrics"]["AP"], 1)
        rows.append(
            (
                name,
                weights.variant.name,
                parameters,
                "shapes val",
                ap,
                shipped.path.stat().st_size,
                True,
            )
        )

    if json:
        keys = ("name", "backbone", "parameters", "data", "AP", "bytes", "cached")
        listed = [dict(zip(keys, row, strict=True)) for row in rows]
        print_json({"schema": "detr.models/1", "models": listed})
    else:
        print_table(
            ("name", "backbone", "parameters", "evaluated on", "AP", "MB", "here"),
            [
                (name, backbone, parameters, data, ap, size and round(size / 1e6), "yes" if here else "no")
                for name, backbone, parameters, data, ap, size, here in rows
            ],
        )
