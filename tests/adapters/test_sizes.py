"""Input sizes that a model does not take: sides that its patches, windows or strides do not divide."""

from pathlib import Path
from typing import Any

import phrases
import pytest
from families import changed, folder_of
from here import Detr

from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import UsageError, WeightsError

PROCESSOR = "preprocessor_config.json"
MULTIPLES = {"rt": 32, "lw": 16, "rf": 16, "owlvit": 16}
EDGES = {"shortest_edge": 96, "longest_edge": 128}


def folder(name: str) -> Path:
    return phrases.folder_of(name) if phrases.are_taken_by(name) else folder_of(name)


def load(name: str, source: Any) -> Any:
    return load_checkpoint(str(source), phrases=phrases.PHRASES if phrases.are_taken_by(name) else None)


@pytest.mark.parametrize("name", MULTIPLES)
def test_a_folder(name: str, tmp_path: Path) -> None:
    multiple = MULTIPLES[name]
    processor = PROCESSOR if (folder(name) / PROCESSOR).exists() else "processor_config.json"
    key = "size" if processor == PROCESSOR else "image_processor.size"
    for index, (size, shown) in enumerate(
        (
            ({"height": 2 * multiple, "width": 3 * multiple + 8}, f"{3 * multiple + 8} x {2 * multiple} pixels"),
            ({"height": 3 * multiple + 8, "width": 2 * multiple}, f"{2 * multiple} x {3 * multiple + 8} pixels"),
            *([(EDGES, "shorter side of 96")] if name != "owlvit" else []),
        )
    ):
        place = changed(folder(name), tmp_path / str(index), processor, **{key: size})
        with pytest.raises(WeightsError, match=rf"{shown}.* multiples of {multiple} "):
            load(name, place)


@pytest.mark.parametrize("name", MULTIPLES)
def test_a_size_that_the_user_gives(name: str) -> None:
    checkpoint, multiple = load(name, folder(name)), MULTIPLES[name]
    for size in (3 * multiple + 1, 6 * multiple - 1):
        for in_proportion in (True, False):
            with pytest.raises(UsageError) as error:
                checkpoint.resized(size, in_proportion=in_proportion)
            low = size // multiple * multiple
            for nearest in (low, low + multiple):
                assert f"`size={nearest}`" in str(error.value)
                checkpoint.resized(nearest, in_proportion=in_proportion)


@pytest.mark.parametrize("name", ["conditional", "yolos", "deformable"])
def test_models_that_take_any_size(name: str) -> None:
    checkpoint = load_checkpoint(str(folder_of(name)))
    assert checkpoint.resized(83).preprocessing.resize.side == 83


def test_commands(data: Path, image: Path, detr: Detr, tmp_path: Path) -> None:
    place = changed(folder_of("rf"), tmp_path / "odd", PROCESSOR, size={"height": 100, "width": 100})
    detr("predict", image, "--weights", place).fails(4, "100 x 100", "16")
    for command in (
        ("predict", image, "--weights", folder_of("rf"), "--size", 100),
        ("train", data, "--weights", folder_of("rf"), "--size", 100),
        ("train", data, "--weights", folder_of("rf"), "--set", "size=100"),
        ("eval", data, "--weights", folder_of("rf"), "--size", 100),
    ):
        detr(*command).fails(2, "96", "112")


def test_images_with_fewer_tokens_than_queries(image: Path, detr: Detr) -> None:
    """Where the number of tokens depends on the image."""
    command = ("predict", image, "--weights", folder_of("deformable-two-stage"), "--no-images")
    detr(*command, "--size", 16).fails(2, "16 x 16 pixels", "--size")
    detr(*command, "--size", 64).ok()
    text = ("--text", phrases.TEXT)
    detr("predict", image, "--weights", phrases.folder_of("grounding"), *text, "--size", 16).fails(2, "--size")
