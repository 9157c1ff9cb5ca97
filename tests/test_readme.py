"""The README tells the truth about commands, files and how to start."""

import re
from pathlib import Path

import typer
from here import leaves

import detrcli
from detrcli.cli.app import app

ROOT = Path(detrcli.__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_there() -> None:
    for name in leaves(typer.main.get_command(app)):
        assert f"`detr {name}" in README


def test_two_shell_blocks_of_one_line_each() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.M | re.S)
    assert [len(block.splitlines()) for block in blocks] == [1, 1]
