"""The command line in processes of its own: help, exit codes, errors of the machine, completion."""

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from here import leaves

import detrcli
from detrcli.checkpoints.download import cached_path
from detrcli.checkpoints.registry import PUBLISHED
from detrcli.cli.app import app
from detrcli.system.files import cache_folder

COMMANDS = sorted(leaves(typer.main.get_command(app)))


def detr(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detrcli", *args], capture_output=True, text=True, env={**os.environ, **env}
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    shown = detr(*command.split(), "--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert f"Usage: detr {command}" in shown.stdout
    assert "--debug" in shown.stdout
    assert detr(*command.split(), "-h").stdout == shown.stdout
    # A first sentence of its own, whole in the list of commands too.
    first = shown.stdout.splitlines()[2].strip()
    assert first in help_of_group(*command.split()[:-1])


@cache
def help_of_group(*group: str) -> str:
    return detr(*group, "--help").stdout


def test_version_and_bare_call() -> None:
    assert detr("--version").stdout == f"detr {detrcli.__version__}\n"
    assert "Commands:" in detr().stdout
    assert detr().returncode == 0


def test_control_characters_in_an_error_are_made_visible() -> None:
    shown = detr("fr\x1b[31mob\u202e")
    assert "\x1b" not in shown.stderr
    assert "\\x1b[31m" in shown.stderr
    assert "\\u202e" in shown.stderr


def cached_detr_r50(cache: Path) -> None:
    known = PUBLISHED["detr-r50"]
    there = cache / cached_path(known.url, known.sha256).relative_to(cache_folder())
    there.parent.mkdir()
    there.touch()


@pytest.mark.slow
def test_models_as_table(tmp_path: Path) -> None:
    cached_detr_r50(tmp_path)
    table = detr("models", COLUMNS="20", DETR_CACHE=str(tmp_path))
    assert table.returncode == 0
    assert table.stderr == ""
    assert "\x1b" not in table.stdout
    lines = [line.split() for line in table.stdout.splitlines()]
    assert ["detr-r50", "800/1333", "42.0", "167", "yes"] in lines
    assert ["detr-r101-dc5", "800/1333", "44.9", "243"] in lines
    assert ["shapes-detr", "69.4", "7", "yes"] in lines
    assert ["rt-detr-r18", "640x640", "46.4", "4.6", "T4", "81"] in lines
    assert ["RT-DETR", "rt_detr", "42.7", "137", "640x640", "53.1"] in lines


def test_facts_about_named_weights() -> None:
    document = json.loads(detr("models", "rf-detr-nano", "--json").stdout)
    assert document == {
        "schema": "detr.model/1",
        "name": "rf-detr-nano",
        "family": "RF-DETR",
        "detects": "objects of COCO's classes",
        "source": "https://storage.googleapis.com/rfdetr/nano_coco/checkpoint_best_regular.pth",
        "address": "https://storage.googleapis.com/rfdetr/nano_coco/checkpoint_best_regular.pth",
        "license": "Apache-2.0",
        "extra": "models",
        "input": "384x384",
        "megabytes": None,
        "AP": 48.4,
        "AP_of": "boxes, COCO val2017",
        "AP_source": "rfdetr.roboflow.com and the pages of rfdetr 1.0 and 1.3",
        "latency_ms": 2.3,
        "latency_device": "T4, TensorRT FP16",
        "latency_source": "rfdetr.roboflow.com and the pages of rfdetr 1.0 and 1.3",
        "md5": "fb6504cce7fbdc783f7a46991f07639f",
        "sha256": None,
        "cached": False,
    }
    shown = detr("models", "rfdetr-nano")
    assert (shown.returncode, shown.stdout) == (4, "")
    assert "Did you mean rf-detr-nano?" in shown.stderr


def test_models_as_json(tmp_path: Path) -> None:
    cached_detr_r50(tmp_path)
    document = json.loads(detr("models", "--json", DETR_CACHE=str(tmp_path)).stdout)
    assert document["schema"] == "detr.models/1"
    assert document["models"][0] == {
        "name": "detr-r50",
        "backbone": "resnet50",
        "parameters": 41_524_768,
        "data": "COCO val2017",
        "AP": 42.0,
        "bytes": 166_618_694,
        "cached": True,
    }
    assert document["models"][4]["parameters"] == 42_899_288
    assert document["families"][4] == {
        "family": "RT-DETR",
        "model_type": "rt_detr",
        "default": {"parameters": 42_731_082, "gflop": 136.7, "height": 640, "width": 640},
        "as_published": {"model": "R50", "ap": 53.1, "paper": "2304.08069"},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "error", "code", "words"),
    [
        ("rich", "TypeError('planted')", 1, ["Internal error: TypeError: planted"]),
        ("rich", "OSError(28, 'No space left on device', 'out.json')", 6, ["out.json"]),
        # The error of importing PyPI's torchvision with a CPU-only torch.
        (
            "torchvision", "RuntimeError('operator torchvision::nms does not exist')", 6,
            [f"torch {version('torch')} and torchvision {version('torchvision')}", "pip install"],
        ),
    ],
    ids=["internal", "disk full", "incompatible"],
)  # fmt: skip
def test_errors_of_other_packages(tmp_path: Path, module: str, error: str, code: int, words: list[str]) -> None:
    """--debug adds the traceback."""
    (tmp_path / f"{module}.py").write_text(f"raise {error}")
    call = ("models",) if module == "rich" else ("report", "shapes", "--weights", "shapes")
    shown = detr(*call, PYTHONPATH=str(tmp_path))
    assert shown.returncode == code
    assert all(word in shown.stderr for word in words)
    assert "Traceback" not in shown.stderr
    assert "Traceback" in detr(*call, "--debug", PYTHONPATH=str(tmp_path)).stderr


@pytest.mark.skipif(os.name == "nt", reason="no /dev/full and no head")
@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error() -> None:
    shown = subprocess.run(
        f"{sys.executable} -m detrcli models | true; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout == "141\n"
    assert shown.stderr == ""


def test_shell_completion() -> None:
    shown = detr(_DETR_COMPLETE="complete_bash", COMP_WORDS="detr vis", COMP_CWORD="1")
    assert shown.stdout.split() == ["visualize-attn"]
