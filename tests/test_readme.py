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


def test_tree_names_every_file() -> None:
    """Each file stands in the tree with a line that says what it is for, and nothing else does."""
    block = re.search(r"^```text\n(detrcli/\n.*?)^```", README, flags=re.M | re.S)
    assert block
    listed, folders = set(), []
    for line in block[1].splitlines():
        indent, name, purpose = re.fullmatch(r"( *)(\S+)(?:  +(\S.*))?", line).groups()
        folders = folders[: len(indent) // 2]
        if name.endswith("/"):
            folders.append(name)
        else:
            assert purpose, line
            listed.add("".join([*folders, name]))
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in ("detrcli", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert listed == there
