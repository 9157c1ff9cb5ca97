"""Quantization of OpenVINO models to INT8, calibrated on images (package nncf).

Convolutions and matrix products compute in 8-bit integers; activations, norms, softmax and sampling in float32.
"""

import json
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino

from detrcli.errors import MachineError
from detrcli.inference.description import HEADER
from detrcli.inference.export import PRECISION

# Layers that stay in float32. The values of sampled attention have outliers: on `shapes`, AP falls by 0.024 with them
# in INT8, and by 0.002 without, at the same speed.
Excluded = Literal["attention values", "linear layers"]
EXCLUDED: Sequence[Excluded] = ("attention values", "linear layers")  # in this order, until AP is high enough


def check_nncf() -> None:
    """Raise MachineError if nncf is not installed."""
    try:
        import nncf  # noqa: F401  # only to see whether it is installed
    except ImportError:
        raise MachineError("INT8 needs the package nncf: pip install 'detrcli[int8]'") from None


def quantize(source: Path, path: Path, images: Sequence[np.ndarray], excluded: Excluded) -> None:
    """Quantize an exported file, and write it as `path` and a .bin beside it.

    `images` (1, 3, H, W), from which the ranges of activations are measured, are inputs of the network.
    """
    import logging

    import nncf

    model = openvino.Core().read_model(source)
    names = value_projections(model) if excluded == "attention values" else []
    types = ["MatMul"] if excluded == "linear layers" else []
    nncf.set_log_level(logging.ERROR)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # progress bars
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            target_device=nncf.TargetDevice.CPU,
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=names, types=types, validate=False),
        )
    header = json.loads(quantized.get_rt_info([HEADER]).value)
    quantized.set_rt_info(json.dumps({**header, PRECISION: "int8"}), [HEADER])
    openvino.save_model(quantized, path, compress_to_fp16=False)


def value_projections(model: openvino.Model) -> list[str]:
    """Return the names of the linear layers whose outputs are sampled in the attention of deformable models."""
    names: dict[str, None] = {}
    pending: list[Any] = [op.input_value(0).get_node() for op in model.get_ops() if op.get_type_name() == "GridSample"]
    while pending:
        op = pending.pop()
        if op.get_type_name() == "MatMul":
            names[op.get_friendly_name()] = None
        elif op.get_type_name() != "Convolution":
            pending += [value.get_node() for value in op.input_values()]
    return list(names)
