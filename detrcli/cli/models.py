"""`detr models`: what there is to choose from."""

from typing import TYPE_CHECKING

from detrcli.cli.options import Debug, Json

if TYPE_CHECKING:
    from detrcli.architectures.adapters.families import Family


def models(json: Json = False, debug: Debug = False) -> None:
    """List weights with a name, and families of models."""
    from dataclasses import asdict

    from detrcli.architectures import preset
    from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY
    from detrcli.checkpoints.download import cached_path
    from detrcli.checkpoints.load import load_checkpoint
    from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
    from detrcli.cli.console import print_json, print_table

    known_families: dict[str, Family] = {**FAMILIES, **OPEN_VOCABULARY, **MASK_FAMILIES}
    rows = []
    for name, known in PUBLISHED.items():
        architecture, config = preset(name)
        backbone = architecture.summary(config)
        here = cached_path(known.url, known.sha256).exists()
        rows.append((name, backbone, known.parameters, "COCO val2017", known.ap, known.bytes, here))
    for name, shipped in SHIPPED.items():
        checkpoint = load_checkpoint(name)
        parameters = sum(p.numel() for p in checkpoint.model().parameters())
        ap = round(100 * shipped.record["metrics"]["AP"], 1)
        rows.append((name, checkpoint.architecture.name, parameters, "shapes val", ap, shipped.bytes, True))

    if json:
        keys = ("name", "backbone", "parameters", "data", "AP", "bytes", "cached")
        listed = [dict(zip(keys, row, strict=True)) for row in rows]
        families = [
            {
                "family": family.title,
                "model_type": model_type,
                "default": family.default and asdict(family.default),
                "as_published": family.published and asdict(family.published),
            }
            for model_type, family in known_families.items()
        ]
        print_json({"schema": "detr.models/1", "models": listed, "families": families})
    else:
        print_table(
            ("name", "backbone", "parameters", "evaluated on", "AP", "MB", "here"),
            [
                (name, backbone, parameters, data, ap, size and round(size / 1e6), "yes" if here else "no")
                for name, backbone, parameters, data, ap, size, here in rows
            ],
        )
        print()
        print_table(
            ("folders of transformers", "model_type", "parameters", "GFLOP", "at", "AP as published"),
            [_row(model_type, family) for model_type, family in known_families.items()],
        )


def _row(model_type: str, family: "Family") -> tuple[str, str, str, str, str, str]:
    default, published = family.default, family.published
    measured = ("", "", "")
    if default is not None:
        measured = (f"{default.parameters:,}", f"{default.gflop:.1f}", f"{default.height} x {default.width}")
    said = "" if published is None else f"{published.ap} ({published.model}, arXiv {published.paper})"
    return (family.title, model_type, *measured, said)
