"""Measure the time of the help screens, compared with a bare typer app with the same commands and options.

    python examples/help_speed.py

Runs complete processes, alternating. Expected: a ratio of at most 1.2 for each screen.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
from timing import in_turn, show

from detrcli.cli.app import app

SCREENS = (["--help"], ["train", "--help"])
ROUNDS = 15


def bare_app() -> str:
    """Return the source of an app with the same commands, groups and options, whose commands do nothing."""
    lines = ["from typing import Annotated", "import typer"]
    declare_group(lines, "app", typer.main.get_command(app))
    return "\n".join(lines)


def declare_group(lines: list[str], variable: str, group: Any) -> None:
    lines.append(f"{variable} = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)")
    for name, command in group.commands.items():
        inner = f"{variable}_{name.replace('-', '_')}"
        if hasattr(command, "commands"):
            declare_group(lines, inner, command)
            lines.append(f"{variable}.add_typer({inner}, name={name!r}, help={command.help!r})")
            continue
        parameters = [declare(p) for p in command.params if p.name != "help"]
        lines += [
            f"@{variable}.command({name!r})",
            f"def {inner}({', '.join(parameters)}) -> None:",
            f"    {command.help!r}",
        ]


def declare(parameter: Any) -> str:
    kinds = {bool: "bool", int: "int", float: "float", list: "list[str]", type(None): "str | None"}
    kind = "list[str] | None" if parameter.multiple else kinds.get(type(parameter.default), "str")
    if parameter.param_type_name == "argument":
        declared = f"typer.Argument(help={parameter.help!r})"
    else:
        names = ", ".join(map(repr, parameter.opts))
        declared = f"typer.Option({names}, help={parameter.help!r}, metavar={parameter.metavar!r})"
    default = None if parameter.multiple else parameter.default
    return f"{parameter.name}: Annotated[{kind}, {declared}] = {default!r}"


def main() -> None:
    apps = {"detr": "from detrcli.cli.app import main; main()", "bare": "from bare_app import app; app()"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bare_app.py").write_text(bare_app(), encoding="utf-8")
        for screen in SCREENS:
            ways = {name: functools.partial(show_screen, code, screen, folder) for name, code in apps.items()}
            seconds = in_turn(ways, ROUNDS)
            ratio = statistics.median(a / b for a, b in zip(seconds["detr"], seconds["bare"], strict=True))
            ms = {f"{name}, ms": round(1000 * statistics.median(values), 1) for name, values in seconds.items()}
            rows.append({"screen": " ".join(["detr", *screen]), **ms, "ratio": round(ratio, 2)})
    show(rows)


def show_screen(code: str, screen: list[str], folder: str) -> None:
    subprocess.run([sys.executable, "-c", code, *screen], cwd=folder, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
