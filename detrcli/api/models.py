"""Listing models, and writing them for other libraries and runtimes."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from detrcli.api.detectors import checkpoint_of
from detrcli.api.options import Weights, load_options
from detrcli.api.results import PlainResult, Result, Table
from detrcli.architectures import preset
from detrcli.architectures.adapters.families import FAMILIES, INSTANCE_FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY
from detrcli.architectures.architecture import FolderArchitecture
from detrcli.checkpoints.catalog import CATALOG
from detrcli.checkpoints.download import cached_path
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
from detrcli.errors import UsageError
from detrcli.inference import export as exporting
from detrcli.reporter import SILENT, Reporter


def export(
    weights: Weights,
    out: str | Path,
    format: Literal["onnx", "openvino"],
    *,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    reporter: Reporter = SILENT,
) -> float:
    """Write a model for another runtime. Return the largest difference from the plain model."""
    runtime = exporting.RUNTIMES[format]
    runtime.check_precision(precision)  # before anything is downloaded
    checkpoint = checkpoint_of(load_options(weights), reporter=reporter)
    reporter.note(f"tracing {checkpoint.source}, which takes about ten seconds")
    return exporting.export(checkpoint, runtime, Path(out), precision)


def convert(weights: Weights, out: str | Path, *, reporter: Reporter = SILENT) -> Path:
    """Write a model of transformers as a folder that transformers loads. Return the folder."""
    checkpoint = checkpoint_of(load_options(weights), reporter=reporter)
    architecture, config = checkpoint.architecture, checkpoint.config
    if not isinstance(architecture, FolderArchitecture):
        raise UsageError(f"{checkpoint.source}: a {architecture.describe(config)} has no folder of transformers.")
    if reason := architecture.obstacle(config):
        raise UsageError(f"{checkpoint.source}: {reason}.")
    return native.save_as(checkpoint, Path(out).parent, Path(out).name)


def list_models() -> Result:
    """List the weights that have a name, and the model families of transformers that can be loaded."""
    keys = ("name", "backbone", "parameters", "data", "AP", "bytes", "cached")
    models: list[tuple[Any, ...]] = []
    for name, weights in PUBLISHED.items():
        architecture, config = preset(name)
        backbone, cached = architecture.summary(config), cached_path(weights.url, weights.sha256).exists()
        models.append((name, backbone, weights.parameters, "COCO val2017", weights.ap, weights.bytes, cached))
    for name, shipped in SHIPPED.items():
        checkpoint = load_checkpoint(name)
        parameters = sum(p.numel() for p in checkpoint.model().parameters())
        ap = round(100 * shipped.record["metrics"]["AP"], 1)
        models.append((name, checkpoint.architecture.name, parameters, "shapes val", ap, shipped.bytes, True))
    catalog = [
        (model.name, model.title, model.size, model.ap or "", model.megabytes or "", model.latency, model.license)
        for model in CATALOG.values()
    ]
    named = [(*facts, bytes_ and round(bytes_ / 1e6), "yes" if cached else "no") for *facts, bytes_, cached in models]
    families, rows = [], []
    kinds = (FAMILIES, INSTANCE_FAMILIES, OPEN_VOCABULARY, MASK_FAMILIES)
    for model_type, family in chain.from_iterable(kind.items() for kind in kinds):
        default, published = family.default, family.published
        families.append(
            {
                "family": family.title,
                "model_type": model_type,
                "default": default and asdict(default),
                "as_published": published and asdict(published),
            }
        )
        cost = ("", "", "")  # parameters, GFLOP and the input size for which they are counted
        if default is not None:
            cost = (f"{default.parameters:,}", f"{default.gflop:.1f}", f"{default.height} x {default.width}")
        published_ap = f"{published.ap} ({published.model}, arXiv {published.paper})" if published is not None else ""
        rows.append((family.title, model_type, *cost, published_ap))
    document = [dict(zip(keys, model, strict=True)) for model in models]
    return PlainResult(
        [
            Table("", ("name", "backbone", "parameters", "evaluated on", "AP", "MB", "cached"), named),
            Table(
                "named models of transformers, with figures of their authors: pip install 'detrcli[models]'",
                ("name", "family", "input", "AP", "MB", "latency", "license"),
                catalog,
            ),
            Table("", ("transformers family", "model_type", "parameters", "GFLOP", "input size", "published AP"), rows),
        ],
        {
            "schema": "detr.models/1",
            "models": document,
            "named": [asdict(model) for model in CATALOG.values()],
            "families": families,
        },
    )
