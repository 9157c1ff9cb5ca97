"""The command line in this process: faster than in one of its own, where that makes no difference."""

import sys
from pathlib import Path

import pytest
from here import Detr, Shown
from PIL import Image

from detrcli.cli.app import main


@pytest.fixture
def detr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Detr:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*args: object) -> Shown:
        monkeypatch.setattr(sys, "argv", ["detr", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Shown(left.value.code or 0, out, err)

    return run
