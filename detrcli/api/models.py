"""Models, listed and exported for other runtimes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from detrcli.api.loading import Weights, as_options
from detrcli.api.results import Result, Table
from detrcli.architectures import architecture_of, preset
from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY, Family
from detrcli.checkpoints.download import cached_path
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
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
    checkpoint = as_options(weights).checkpoint(reporter=reporter)
    reporter.note(f"tracing {checkpoint.source}, which takes about ten seconds")
    return exporting.export(checkpoint, runtime, Path(out), precision)


@dataclass(frozen=True)
class NamedModel:
    """Weights that have a name."""

    name: str
    backbone: str
    parameters: int
    data: str  # on which AP was measured
    AP: float
    bytes: int | None
    cached: bool


@dataclass(frozen=True)
class ModelList(Result):
    """Weights that have a name, and the model families of transformers."""

    models: Sequence[NamedModel]
    families: Mapping[str, Family]  # by model_type

    @property
    def content(self) -> Sequence[str | Table]:
        models = [
            (*astuple(model)[:5], model.bytes and round(model.bytes / 1e6), "yes" if model.cached else "no")
            for model in self.models
        ]
        families: list[tuple[str, ...]] = []
        for model_type, family in self.families.items():
            default, published = family.default, family.published
            size = ("", "", "")
            if default is not None:
                size = (f"{default.parameters:,}", f"{default.gflop:.1f}", f"{default.height} x {default.width}")
            ap = f"{published.ap} ({published.model}, arXiv {published.paper})" if published is not None else ""
            families.append((family.title, model_type, *size, ap))
        return [
            Table("", ("name", "backbone", "parameters", "evaluated on", "AP", "MB", "cached"), models),
            Table("", ("transformers family", "model_type", "parameters", "GFLOP", "at", "published AP"), families),
        ]

    @property
    def document(self) -> dict[str, Any]:
        families = [
            {
                "family": family.title,
                "model_type": model_type,
                "default": family.default and asdict(family.default),
                "as_published": family.published and asdict(family.published),
            }
            for model_type, family in self.families.items()
        ]
        return {"schema": "detr.models/1", "models": [asdict(model) for model in self.models], "families": families}


def list_models() -> ModelList:
    """Return the weights that have a name, and the model families of transformers that can be loaded."""
    models = []
    for name, weights in PUBLISHED.items():
        config = preset(name)
        cached = cached_path(weights.url, weights.sha256).exists()
        summary = architecture_of(config).summary(config)
        models.append(NamedModel(name, summary, weights.parameters, "COCO val2017", weights.ap, weights.bytes, cached))
    for name, shipped in SHIPPED.items():
        checkpoint = load_checkpoint(name)
        parameters = sum(p.numel() for p in checkpoint.model().parameters())
        ap = round(100 * shipped.record["metrics"]["AP"], 1)
        models.append(NamedModel(name, checkpoint.architecture.name, parameters, "shapes val", ap, shipped.bytes, True))
    return ModelList(models, {**FAMILIES, **OPEN_VOCABULARY, **MASK_FAMILIES})
