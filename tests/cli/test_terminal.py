"""Output to a terminal (a pseudo terminal)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from judge import coco_folder
from small import TINY, small_weights, smooth_noise

from detrcli.checkpoints.formats import native
from detrcli.cli import console
from detrcli.guide import TOPICS, page

pty = pytest.importorskip("pty")


def on_a_terminal(*args: object, cwd: Path, columns: int = 80, **env: str) -> str:
    """Return the bytes sent to a terminal of this width, stdout and stderr together."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "detrcli", *map(str, args)],
        cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", **env},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux ends a terminal so
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    native.save(small_weights(TINY), folder / "w.safetensors")
    (folder / "in").mkdir()
    for i in range(6):
        smooth_noise(i, (96, 64)).save(folder / "in" / f"{i}.png")
    return folder


CALL = ("predict", "in", "--weights", "w.safetensors", "--no-images", "--threshold", 0)


def test_progress_is_updated_and_erased(place: Path) -> None:
    shown = on_a_terminal(*CALL, cwd=place)
    assert "predicting" in shown
    assert "6/6" in shown or "5/6" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("call", "env"),
    [
        (CALL, {"NO_COLOR": "1"}),
        pytest.param(("models",), {"NO_COLOR": "1"}, marks=pytest.mark.slow),
        pytest.param(CALL, {"TERM": "dumb"}, marks=pytest.mark.slow),
        pytest.param(("models",), {"TERM": "dumb"}, marks=pytest.mark.slow),
    ],
)
def test_no_escape_bytes_on_request(place: Path, call: tuple[str], env: dict[str, str]) -> None:
    shown = on_a_terminal(*call, cwd=place, columns=30, **env)
    assert "\x1b" not in shown
    assert "\r" not in shown.replace("\r\n", "")


def test_progress_in_a_pipe_is_a_line_per_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter(range(0, 1000, 25))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.STDERR.progress("predicting", 2000) as advance:
        for _ in range(7):
            advance(300)
    assert capsys.readouterr().err == "detr: predicting: 900 of 2,000\ndetr: predicting: 1,800 of 2,000\n"


@pytest.mark.slow
def test_no_escape_bytes_in_a_pipe_even_if_forced(place: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "detrcli", "models"], capture_output=True, env={**os.environ, "FORCE_COLOR": "1"}
    )
    assert b"\x1b" not in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "words"), [(44, ("cached",)), (24, ("name", "input", "AP", "ms", "on", "MB", "42.0"))]
)
def test_narrow_terminals_show_every_column_and_break_no_number(
    place: Path, columns: int, words: tuple[str, ...]
) -> None:
    """Where text cannot be folded any further, the terminal breaks the lines itself."""
    shown = on_a_terminal("models", cwd=place, columns=columns)
    assert all(word in shown for word in (*words, "800/1333", "13.5", "1,750"))


def test_numbers_of_eval_fit_forty_columns(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "width": 90, "height": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 1, "name": "ant"}],
    }
    coco_folder(tmp_path, truth)
    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}]
    (tmp_path / "r.json").write_text(json.dumps(found))
    shown = on_a_terminal("eval", ".", "--predictions", "r.json", cwd=tmp_path, columns=40)
    assert [line.split()[:2] for line in shown.splitlines()[3:6]] == [
        ["AP", "1.000"], ["AP50", "1.000"], ["AP75", "1.000"],
    ]  # fmt: skip
    assert max(map(len, shown.splitlines()[3:15])) <= 40


@pytest.mark.parametrize("columns", [60, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("topic", TOPICS)
def test_a_guide_page_fits_the_terminal(topic: str, columns: int, tmp_path: Path) -> None:
    shown = on_a_terminal("guide", topic, cwd=tmp_path, columns=columns)
    assert "\x1b[" in shown
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown.split("\r\n")]
    assert max(map(len, lines)) <= columns
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line or "](" in line or "|--" in line for line in lines)


@pytest.mark.parametrize(
    "env", [{"NO_COLOR": "1"}, pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow)], ids=["NO_COLOR", "dumb"]
)
def test_the_guide_without_escapes_is_markdown(tmp_path: Path, env: dict[str, str]) -> None:
    assert on_a_terminal("guide", "training", cwd=tmp_path, **env).replace("\r\n", "\n") == page("training")
