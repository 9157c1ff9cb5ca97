"""The README is short, and tells the truth about commands and how to start."""

import re

from documents import COMMANDS, README, fenced, read

from detrcli.guide import TOPICS


def test_it_is_short() -> None:
    assert README.stat().st_size <= 8192


def test_every_command_is_in_its_table() -> None:
    rows = re.findall(r"^\| `detr ([^`]+)` \|", read(README), flags=re.M)
    assert len(rows) == len(COMMANDS)
    for name in COMMANDS:
        assert any(f"{row} ".startswith(f"{name} ") for row in rows), name


def test_every_topic_of_the_guide_is_linked() -> None:
    guide = read(README).partition("\n## Guide\n")[2]
    assert re.findall(r"\(detrcli/guide/(\w+)\.md\)", guide) == list(TOPICS)


def test_two_single_line_shell_blocks() -> None:
    install, tests = fenced(read(README), "sh")
    assert len(install.splitlines()) == len(tests.splitlines()) == 1
    assert install.endswith("pip install . && detr demo\n")
    assert tests.endswith("pip install -e '.[dev]' && pytest\n")
