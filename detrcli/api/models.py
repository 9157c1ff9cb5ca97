"""Listing models, and writing them for other libraries and runtimes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from detrcli.api.detectors import checkpoint_of
from detrcli.api.options import Weights, load_options
from detrcli.api.results import Cell, PlainResult, Result, Table
from detrcli.architectures import preset
from detrcli.architectures.adapters.families import (
    FAMILIES,
    INSTANCE_FAMILIES,
    MASK_FAMILIES,
    OPEN_VOCABULARY,
    Family,
)
from detrcli.architectures.architecture import FolderArchitecture
from detrcli.checkpoints.catalog import APACHE, BOXES, CATALOG, EXTRA, TASKS
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED, unknown_weights
from detrcli.checkpoints.sources import remote
from detrcli.errors import UsageError
from detrcli.inference import ExportFormat
from detrcli.inference import export as exporting
from detrcli.reporter import SILENT, Reporter


def export(
    weights: Weights,
    out: str | Path,
    format: ExportFormat,
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    with_postprocessing: bool = False,
    reporter: Reporter = SILENT,
) -> float | None:
    """Write a model for another runtime, with the selection of detections and boxes in pixels if requested.

    Returns the largest difference from the plain model, or None if the runtime does not exist on this machine.
    """
    runtime = exporting.RUNTIMES[format]
    runtime.check_precision(precision)  # before anything is downloaded
    if runtime.alternative is None:
        runtime.module()
    checkpoint = checkpoint_of(load_options(weights), reporter=reporter)
    return exporting.export(
        checkpoint, runtime, Path(out), precision, postprocessing=with_postprocessing, reporter=reporter
    )


def convert(weights: Weights, out: str | Path, *, reporter: Reporter = SILENT) -> Path:
    """Write a model of transformers as a folder that transformers loads. Return the folder."""
    checkpoint = checkpoint_of(load_options(weights), reporter=reporter)
    architecture, config = checkpoint.architecture, checkpoint.config
    if not isinstance(architecture, FolderArchitecture):
        raise UsageError(f"{checkpoint.source}: transformers has no model for {architecture.describe(config)}.")
    if reason := architecture.obstacle(config):
        raise UsageError(f"{checkpoint.source}: {reason}.")
    return native.save_as(checkpoint, Path(out).parent, Path(out).name)


COCO, SHAPES = "COCO val2017", "shapes, part of this package"
LEGEND = (
    "AP (percent, COCO val2017), ms per image and MB are those that the authors publish; `detr models NAME` gives "
    "their sources, the address and the license. 800/1333: shorter side 800, longer side at most 1333. "
    "All but detr-* and shapes* need pip install 'detrcli[models]'."
)
_FAMILIES: Sequence[tuple[str, Family]] = [
    *FAMILIES.items(), *INSTANCE_FAMILIES.items(), *OPEN_VOCABULARY.items(), *MASK_FAMILIES.items()
]  # fmt: skip


def list_models() -> Result:
    """List the weights that have a name, and the model families of transformers that can be loaded."""
    keys = ("name", "backbone", "parameters", "data", "AP", "bytes", "cached")
    models: list[tuple[Any, ...]] = []
    for name, weights in PUBLISHED.items():
        architecture, config = preset(name)
        backbone = architecture.summary(config)
        models.append((name, backbone, weights.parameters, COCO, weights.ap, weights.bytes, _is_cached(name)))
    for name, shipped in SHIPPED.items():
        checkpoint = load_checkpoint(name)
        parameters = sum(p.numel() for p in checkpoint.model().parameters())
        ap = round(100 * shipped.record["metrics"]["AP"], 1)
        models.append((name, checkpoint.architecture.name, parameters, "shapes val", ap, shipped.bytes, True))
    rows: dict[str, list[tuple[Cell, ...]]] = {task: [] for task in (*TASKS, SHAPES)}
    for name in (*PUBLISHED, *CATALOG, *SHIPPED):
        facts = _facts(name)
        ms, device = facts["latency_ms"], (facts["latency_device"] or "").split(",")[0]
        numbers = (facts["AP"], None if ms is None else round(ms, 1), device.replace("not stated", "?"))
        megabytes = None if facts["megabytes"] is None else round(facts["megabytes"])
        row = (name, facts["input"] or "", *numbers, megabytes, "yes" if facts["cached"] else "")
        rows[facts["detects"]].append(row)
    columns = ("name", "input", "AP", "ms", "on", "MB", "cached")
    families = [
        {
            "family": family.title,
            "model_type": model_type,
            "default": family.default and asdict(family.default),
            "as_published": family.published and asdict(family.published),
        }
        for model_type, family in _FAMILIES
    ]
    return PlainResult(
        [*(Table(f"Detectors of {task}:", columns, rows[task]) for task in rows), LEGEND, _families_table()],
        {
            "schema": "detr.models/1",
            "models": [dict(zip(keys, model, strict=True)) for model in models],
            "named": [_facts(name) for name in CATALOG],
            "families": families,
        },
    )


def describe_model(name: str) -> Result:
    """Return the facts about named weights: address, license, published accuracy and speed, and their sources."""
    if name not in PUBLISHED and name not in CATALOG and name not in SHIPPED:
        raise unknown_weights(name)
    facts = _facts(name)
    shown = {key: "yes" if value is True else "no" if value is False else value for key, value in facts.items()}
    rows = [(key.replace("_", " "), str(value)) for key, value in shown.items() if value is not None]
    return PlainResult([Table("", ("", ""), rows)], {"schema": "detr.model/1", **facts})


def _facts(name: str) -> dict[str, Any]:
    """Return the facts about named weights. Unknown facts are None."""
    facts: dict[str, Any] = {"name": name}
    if name in CATALOG:
        model = CATALOG[name]
        family = model.family
        facts |= {
            "family": family.title, "detects": family.task, "source": model.source, "input": model.input or None,
            "AP": model.ap, "AP_of": family.ap_of if model.ap is not None else None,
            "AP_source": family.ap_source if model.ap is not None else None, "megabytes": model.megabytes,
            "latency_ms": model.latency_ms, "license": family.license, "extra": EXTRA, "md5": model.md5,
        }  # fmt: skip
        if model.latency_ms is not None:
            facts |= {"latency_device": family.device, "latency_source": family.latency_source}
    elif name in PUBLISHED:
        weights = PUBLISHED[name]
        facts |= {
            "family": "DETR", "detects": BOXES, "input": "800/1333", "AP": weights.ap, "AP_of": "boxes, COCO val2017",
            "AP_source": "README of github.com/facebookresearch/detr",
            "megabytes": weights.bytes and round(weights.bytes / 1e6), "license": weights.license,
            "sha256": weights.sha256,
        }  # fmt: skip
    else:
        shipped = SHIPPED[name]
        facts |= {
            "family": "DETR" if name == "shapes-detr" else "DINO", "detects": SHAPES,
            "AP": round(100 * shipped.record["metrics"]["AP"], 1), "AP_of": "boxes, shapes val",
            "AP_source": "measured, see `detr guide weights`", "megabytes": round(shipped.bytes / 1e6, 1),
            "license": APACHE,
        }  # fmt: skip
    where = remote(name)
    facts |= {"address": where and where.address, "cached": _is_cached(name)}
    order = (
        "name", "family", "detects", "source", "address", "license", "extra", "input", "megabytes", "AP", "AP_of",
        "AP_source", "latency_ms", "latency_device", "latency_source", "md5", "sha256", "cached",
    )  # fmt: skip
    return {key: facts.get(key) for key in order}


def _is_cached(name: str) -> bool:
    where = remote(name)
    return where is None or where.is_cached()


def _families_table() -> Table:
    rows = []
    for model_type, family in _FAMILIES:
        default, published = family.default, family.published
        cost = ("", "", "")  # parameters, GFLOP and the input size for which they are counted
        if default is not None:
            cost = (f"{default.parameters / 1e6:.1f}", f"{default.gflop:.0f}", f"{default.height}x{default.width}")
        rows.append((family.title, model_type, *cost, str(published.ap) if published is not None else ""))
    return Table(
        "Families of transformers that load as folders or hf:OWNER/NAME, with transformers' default config:",
        ("family", "model_type", "M param.", "GFLOP", "input", "AP"),
        rows,
    )
