"""The code in the README and the guide: command lines, links, and Python."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from here import leaves

import detrcli
from detrcli.cli.app import app
from detrcli.guide import TOPICS

PACKAGE = Path(detrcli.__file__).parent
ROOT = PACKAGE.parent
README = ROOT / "README.md"
DOCUMENTS = (README, *(PACKAGE / "guide" / f"{topic}.md" for topic in TOPICS))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class CommandLine:
    """A call of `detr` in a document."""

    args: tuple[str, ...]
    whole: bool  # a complete line, which can be typed; otherwise it may be a part of it

    @property
    def command(self) -> str:
        """The longest name of a command that the arguments begin with."""
        names = [name for name in COMMANDS if self.args[: len(name.split())] == tuple(name.split())]
        return max(names, key=len, default="")

    @property
    def rest(self) -> list[str]:
        return list(self.args[len(self.command.split()) :])


def command_of(name: str) -> Any:
    """The command of a name such as `data check`."""
    command: Any = typer.main.get_command(app)
    for part in name.split():
        command = command.commands[part]
    return command


COMMANDS = tuple(leaves(typer.main.get_command(app)))
OPTIONS = {name: {"--help", *(opt for param in command_of(name).params for opt in param.opts)} for name in COMMANDS}


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def inline_code(text: str) -> list[str]:
    """Code in single backticks, outside of blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def command_lines(text: str) -> list[CommandLine]:
    """The calls of `detr` in blocks, in indented lines, and in sentences."""
    lines = "".join(fenced(text, "sh")) + "".join(re.findall(r"^    .*\n", text, flags=re.M))
    typed = lines.replace("\\\n", " ").splitlines()
    return [
        *(CommandLine(args, whole=True) for line in typed for args in _calls(line)),
        *(CommandLine(args, whole=False) for span in inline_code(text) for args in _calls(span)),
    ]


def _calls(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    call: list[str] = []
    try:
        tokens = list(lexer)
    except ValueError:  # not a command line
        return
    for token in [*tokens, ";"]:
        if set(token) <= set("|&;<>"):
            if call[:1] == ["detr"] and len(call) > 1:
                yield tuple(call[1:])
            elif call[:1] == ["torchrun"]:
                yield tuple(call[call.index("detrcli") + 1 :])
            call = []
        else:
            call.append(token)


def headings(text: str) -> set[str]:
    """The anchors of the headings, as on GitHub."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    """The targets of links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img [^>]*src="([^"]+)"', text)
