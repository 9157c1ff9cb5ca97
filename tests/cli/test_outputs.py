"""Output paths: never over an input or inside the dataset, also through links."""

from pathlib import Path

import pytest
from here import Detr

from detrcli import DataOptions
from detrcli.cli.outputs import check_files, check_free, check_not_in_data
from detrcli.data.make import make_shapes
from detrcli.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data in `d`, whose `d/val` is a link to `images`, and a link `d-too` to `d`."""
    for name in ("d/train", "d/annotations", "pictures/val", "yolo/images/train", "yolo/labels/train", "project"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "d" / "val").symlink_to(tmp_path / "pictures" / "val")
    (tmp_path / "d-too").symlink_to("d")
    (tmp_path / "d" / "data.yaml").write_text("{train: train, names: [a]}")
    (tmp_path / "yolo" / "data.yaml").write_text("{train: ../images/train, names: [a]}")
    (tmp_path / "project" / "data.yaml").write_text("{path: ../yolo, train: images/train, names: [a]}")
    (tmp_path / "project" / "far.yaml").write_text(f"{{train: {tmp_path}/yolo/images/train, names: [a]}}")
    (tmp_path / "out.png").symlink_to("d/train/linked.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("out", "data"),
    [
        ("d/new.png", "d"),
        ("d/train/new.png", "d"),
        ("d/data.yaml", "d"),
        ("d/new/deep/run", "d"),
        ("d", "d"),
        ("d-too/train/new.png", "d"),
        ("d/train/new.png", "d-too"),
        ("pictures/../d/new.png", "d"),
        ("d/nowhere/../new.png", "d/../d"),
        ("d/val/new.png", "d"),  # a link out of the folder
        ("pictures/val/new.png", "d"),  # its target
        ("out.png", "d"),
        ("d/new.png", "d/data.yaml"),
        ("yolo/new.png", "project/data.yaml"),
        ("project/data.yaml", "project/data.yaml"),
        ("yolo/images/train/new.png", "project/far.yaml"),
        ("yolo/labels/train/new.txt", "project/far.yaml"),
    ],
)
def test_in_the_data(out: str, data: str, folder: Path) -> None:
    for path, of in ((out, data), (folder / out, data), (out, folder / data)):
        with pytest.raises(UsageError, match="data folder"):
            check_not_in_data(Path(path), DataOptions(of))


@pytest.mark.parametrize(
    ("out", "data"),
    [
        ("new.png", "d"),
        ("d/../new.png", "d"),
        ("d.png", "d"),
        ("dd/new.png", "d"),
        ("pictures/new.png", "d"),
        ("project/runs/new", "project/data.yaml"),  # the images are elsewhere, and data.yaml is in a project
        ("project/runs/new", "project/far.yaml"),
        ("shapes/new.png", "shapes"),  # the built-in dataset
        ("d/new.png", "nowhere"),
    ],
)
def test_beside_the_data(out: str, data: str, folder: Path) -> None:
    check_not_in_data(Path(out), DataOptions(data))


def test_files_are_checked_before_folders_are_made(folder: Path) -> None:
    files = [(Path("new/a.png"), (".png",)), (Path("new/b.npz"), (".npz",)), (None, (".html",))]
    for inputs, data in (([Path("new/b.npz")], None), ([], DataOptions("new"))):
        (folder / "new").mkdir(exist_ok=True)
        with pytest.raises(UsageError):
            check_files(files, overwrite=True, inputs=inputs, data=data)
        (folder / "new").rmdir()
    for wrong in ([(Path("new/a.txt"), (".png",))], [files[0], files[0]]):
        with pytest.raises(UsageError, match="new/a"):
            check_files(wrong, overwrite=True)
    assert not Path("new").exists()
    check_files(files, overwrite=False, inputs=[None, Path("d/a.png")], data=DataOptions("d"))
    assert Path("new").is_dir()


def test_every_command_rejects_bad_outputs(detr: Detr, tmp_path: Path) -> None:
    make_shapes(tmp_path / "d", images=3, size=32, classes=("circle",), objects=1)
    named = ["--val-ann", "d/annotations/instances_val.json", "--val-images", "d/val"]
    for call in (
        ["data", "show", "d", "--out", "d/train/new.png"],
        ["eval", "d", "--weights", "shapes", "--save", "d/annotations/instances_test.json"],
        ["eval", *named, "--weights", "shapes", "--save", "d/val/new.json"],
        ["match-debug", "d", "--weights", "shapes", "--out", "d/new.png"],
        ["match-debug", "d", "--weights", "shapes", "--html", "d/new.html"],
        ["match-debug", *named, "--weights", "shapes", "--raw", "d/val/new.npz"],
        ["train", "d", "--model", "detr-tiny", "--out", "d/run"],
        ["train", *[name.replace("val", "train") for name in named], *named, "--out", "d/val/run"],
    ):
        before = sorted(tmp_path.rglob("*"))
        detr(*call).fails(2, "data folder")
        assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_too_long_is_reported_before_a_run(tmp_path: Path, detr: Detr) -> None:
    with pytest.raises(OSError, match="too long"):
        check_free(tmp_path / ("a" * 300))
    check_free(tmp_path / "a" / "b" / "c")
    assert detr("eval", "shapes", "--weights", "nowhere", "--save", f"{'a' * 300}.json").code == 4
    detr("eval", "shapes", "--weights", "shapes", "--save", f"{'a' * 300}.json").fails(2, "a" * 300)
