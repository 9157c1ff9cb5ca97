"""Commands, options, links, tables and Python in the guide and the README are right."""

import ast
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bad_data
import bad_images
import bad_options
import bad_weights
import pytest
from documents import (
    DOCUMENTS,
    OPTIONS,
    PACKAGE,
    ROOT,
    CommandLine,
    command_lines,
    command_of,
    fenced,
    headings,
    inline_code,
    links,
    read,
)
from here import Detr
from PIL import Image
from settings_table import TABLE, settings_table

from detrcli.checkpoints.registry import SHIPPED
from detrcli.data.checks import SKIPPABLE
from detrcli.guide import TOPICS, first_sentence, page
from detrcli.training.settings import given_settings

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)


def test_every_page_is_a_topic() -> None:
    assert sorted(TOPICS) == sorted(path.stem for path in (PACKAGE / "guide").glob("*.md"))


@each_document
def test_links_exist(path: Path) -> None:
    for link in links(read(path)):
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        assert not heading or heading in headings(read(target)), link


LINES = dict.fromkeys(line for path in DOCUMENTS for line in command_lines(read(path)))


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line.args)[:80])
def test_command_lines_are_right(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    # The weights and runs in the lines do not exist.
    monkeypatch.setattr("detrcli.checkpoints.registry.check_weights", lambda source: None)
    if line.args in (("data",), ("--version",)):
        return
    assert line.command, f"no such command: {line.args}"
    unknown = {arg.partition("=")[0] for arg in line.rest if arg.startswith("--")} - OPTIONS[line.command]
    assert not unknown
    pairs = [value for name, value in zip(line.rest, line.rest[1:], strict=False) if name == "--set"]
    given_settings(pairs=[pair for pair in pairs if pair != "KEY=VALUE"])
    if line.whole:  # parsed as the command would, values included; nothing is run
        command_of(line.command).make_context(line.command, line.rest)


def test_command_lines_are_extracted() -> None:
    """From sentences, indented lines and blocks, behind pipes, and over several lines."""
    text = "See `detr eval DATA`.\n\n    ls | detr predict - --json > a\n"
    text += "    detr train a \\\n        --lr 1  # fast\n"
    text += "\n```sh\npip install . && detr demo\n```\n\n    torchrun --n 8 -m detrcli train b\n"
    assert {(line.args, line.whole) for line in command_lines(text)} == {
        (("eval", "DATA"), False),
        (("predict", "-", "--json"), True),
        (("train", "a", "--lr", "1"), True),
        (("demo",), True),
        (("train", "b"), True),
    }


@each_document
def test_options_in_sentences_belong_to_a_command_of_the_page(path: Path) -> None:
    text = read(path)
    there = set().union(*(OPTIONS[line.command] for line in command_lines(text) if line.command))
    for span in inline_code(text):
        if span.startswith("--"):
            option, *values = span.split()
            assert option in there, span
            if option == "--set" and values != ["KEY=VALUE"]:
                given_settings(pairs=values)


def test_the_table_of_settings_is_that_of_the_class() -> None:
    written = TABLE.search(page("training"))
    assert written[0] == settings_table(), "run tests/helpers/settings_table.py"


def raised_problems() -> Iterator[tuple[str, str]]:
    """Yield severity and kind of every problem that the code can report, read from its calls."""
    for path in (PACKAGE / "data").rglob("*.py"):
        for call in ast.walk(ast.parse(read(path))):
            if not isinstance(call, ast.Call):
                continue
            if isinstance(call.func, ast.Name) and call.func.id == "Problem":
                yield from itertools.product(*map(strings, call.args[:2]))
            elif isinstance(call.func, ast.Attribute) and call.func.attr in ("error", "warning", "leave_out"):
                severity = "warning" if call.func.attr == "warning" else "error"
                yield from ((severity, kind) for kind in strings(call.args[0]))


def strings(node: ast.expr) -> list[str]:
    """Return the possible values of an expression; none for a variable."""
    if isinstance(node, ast.IfExp):
        return strings(node.body) + strings(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def test_the_table_of_problems_is_that_of_the_check() -> None:
    raised = set(raised_problems())
    assert {"missing-picture", "bad-picture", "bad-box", "near-duplicate"} <= {kind for _, kind in raised}
    expected = {(kind, "error, or left out" if kind in SKIPPABLE else severity) for severity, kind in raised}
    rows = re.findall(r"^\| `([a-z-]+)` \| .+ \| (error|error, or left out|warning) \|$", page("data"), flags=re.M)
    assert len(rows) == len(set(rows))
    assert set(rows) == expected


@pytest.mark.parametrize("name", SHIPPED)
def test_the_model_cards_have_the_recorded_numbers_and_commands(name: str) -> None:
    record = SHIPPED[name].record
    card = page("weights").split(f"## Model card: `{name}`\n")[1].split("\n## ")[0]
    names, _, numbers = re.search(r"^(\| AP \|.*\n)(.*\n)(.*)\n", card, flags=re.M).groups()  # type: ignore[union-attr]
    shown = [f"{value:.3f}" if value >= 0 else "-1" for value in record["metrics"].values()]
    assert names.strip("| \n").split(" | ") == list(record["metrics"])
    assert numbers.strip("| \n").split(" | ") == shown
    whole = {line.args for line in command_lines(card) if line.whole}
    assert {tuple(command.split()[1:]) for command in record["commands"]} <= whole
    assert f"in {record['minutes']} minutes" in card


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=pytest.mark.slow) if "report(" in code else code  # it makes all of shapes
        for path in DOCUMENTS
        for code in fenced(read(path), "python")
        if "onnxruntime" not in code  # it needs an exported model; tests/inference/test_deploy.py runs it
    ],
    ids=lambda code: code.splitlines()[0] + str(len(code)),
)
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("img.jpg", "a.jpg", "b.jpg"):
        Image.new("RGB", (64, 48), "gray").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "guide", "exec"), {})


def test_a_page_in_a_pipe_is_its_file() -> None:
    command = [sys.executable, "-m", "detrcli", "guide", "attention"]
    env = {**os.environ, "FORCE_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, env=env)
    assert shown.stdout.replace(b"\r\n", b"\n") == (PACKAGE / "guide" / "attention.md").read_bytes()


def test_the_list_has_every_topic_with_its_first_sentence(detr: Detr) -> None:
    rows = [line.rstrip().split(maxsplit=1) for line in detr("guide").ok().out.splitlines()[1:]]
    assert rows == [[topic, first_sentence(page(topic))] for topic in TOPICS]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_a_heading_and_a_sentence(topic: str) -> None:
    heading, sentence, *_ = page(topic).split("\n\n")
    assert re.fullmatch(r"# [^\n]+", heading)
    assert sentence[0].isupper()
    assert first_sentence(page(topic)).endswith(".")
    assert page(topic).isascii()


NEAR = {
    "trainin": "training", "visualize-attn": "attention", "match-debug": "matching", "eval": "evaluation",
    "weigths": "weights", "xyzzy": None,
}  # fmt: skip


@pytest.mark.parametrize(("word", "near"), NEAR.items())
def test_an_unknown_topic(word: str, near: str | None, detr: Detr) -> None:
    shown = detr("guide", word)
    assert (shown.code, shown.out) == (2, "")
    assert (f"Did you mean {near}?" in shown.err) == (near is not None)
    assert ", ".join(TOPICS) in shown.err


def test_referenced_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page("safety"))
    assert len(named) > 10
    for path, name in named:
        functions = {node.name for node in ast.walk(ast.parse(read(ROOT / path))) if isinstance(node, ast.FunctionDef)}
        assert not name or name in functions, f"{path}::{name}"


def test_files_in_the_architecture_page_exist() -> None:
    for name in re.findall(r"[\w/]+\.py\b", page("architecture")):
        assert (PACKAGE / name).is_file() or (ROOT / name).is_file(), name


def test_the_kinds_of_bad_inputs_are_counted() -> None:
    tables = (bad_data, bad_options, bad_images, bad_weights)
    assert f"has {sum(len(table.KINDS) for table in tables)} kinds" in page("safety")
