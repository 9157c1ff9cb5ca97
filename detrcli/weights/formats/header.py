"""All that tensors do not say, as strings: it stands in our files, in our folders, and in the states of trainings."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrcli.config import LossConfig, Preprocessing
from detrcli.errors import DetrError, WeightsError
from detrcli.resize import Resize, ShortestEdge
from detrcli.structures import Classes
from detrcli.variants import variant_of, variants
from detrcli.variants.variant import Variant
from detrcli.weights.weights import Weights

FORMAT = "detrcli/1"
CHECKSUM = "checksum"


def header_of(weights: Weights) -> dict[str, str]:
    """The header of these weights."""
    p = weights.preprocessing
    return {
        "format": FORMAT,
        "variant": variant_of(weights.config).name,
        "config": json.dumps(asdict(weights.config)),
        "classes": json.dumps(
            {name: value.tolist() for name, value in vars(weights.classes).items() if value is not None}
        ),
        "preprocessing": json.dumps({**asdict(p), "resize": p.resize.facts()}),
        "loss": json.dumps(asdict(weights.loss)),
    }


def from_header(
    header: Mapping[str, str], tensors: Mapping[str, Tensor], source: str, beside: Path | None = None
) -> Weights:
    """Weights of such a header and its tensors; `beside` is the folder that they were found in."""
    variant = known_variant(header, source)
    try:
        classes = json.loads(header["classes"])
        if "loss" in header:
            loss = LossConfig(**json.loads(header["loss"]))
        else:
            loss = _loss_of_run(beside, variant.loss)
        return Weights(
            source=source,
            config=variant.config(**json.loads(header["config"])),
            tensors=tensors,
            classes=Classes.of(classes["ids"], classes["names"], classes.get("things")),
            preprocessing=_preprocessing(json.loads(header["preprocessing"])),
            loss=loss,
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, DetrError) as error:
        raise WeightsError(
            f"{source}: written by another version of detr, or by another program ({error!s:.200}).\n"
            "Update detr, or save it again."
        ) from None


def known_variant(header: Mapping[str, str], source: str) -> Variant[Any]:
    """The member that a header names."""
    if "format" not in header:
        raise WeightsError(
            f"{source}: its header cannot be read: it names no format.\nFetch or save it again."
        )
    if header["format"] != FORMAT:
        raise WeightsError(
            f"{source}: written by another version of detr ({header['format']!s:.40}, not {FORMAT}).\n"
            "Update detr, or save it again."
        )
    variant = variants().get(str(header.get("variant")))
    if variant is None:
        raise WeightsError(
            f"{source}: holds a model of a kind that is not known here ({header.get('variant')!r:.40}).\n"
            "Update detr, or install the package that this model comes from."
        )
    return variant


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of header and tensors: names, kinds, shapes and every byte."""
    digest = hashlib.sha256()
    for key in sorted(header.keys() - {CHECKSUM}):
        digest.update(f"{key}={header[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _preprocessing(facts: dict[str, Any]) -> Preprocessing:
    if "resize" not in facts:  # as version 0.1 wrote it
        facts = dict(facts)
        facts["resize"] = ShortestEdge(facts.pop("size"), facts.pop("max_size")).facts()
    rule = Resize.of(facts["resize"])
    return Preprocessing(
        **{**facts, "resize": rule, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    )


def _loss_of_run(folder: Path | None, otherwise: LossConfig) -> LossConfig:
    """What the run that version 0.1 left in this folder was trained with: it stands in its settings alone."""
    settings: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        settings = {} if folder is None else tomllib.loads((folder / "config.toml").read_text("utf-8"))
    terms = {
        table: {
            name: settings[f"{table}_{name}"]
            for name in getattr(otherwise, table)
            if f"{table}_{name}" in settings
        }
        for table in ("cost", "loss")
    }
    with_weights = otherwise.with_weights(**terms)
    own: dict[str, Any] = {
        name: settings[name] for name in ("matching", "class_cost", "no_object") if name in settings
    }
    return LossConfig(**{**vars(with_weights), **own})
