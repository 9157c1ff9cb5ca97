"""How long the help screens take, beside a bare typer app with the same commands and options.

    python examples/help_speed.py

Ratios of whole processes, run in turn. Expected: at most 1.2 for each screen.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

from detrcli.cli.app import app

SCREENS = (["--help"], ["train", "--help"])
ROUNDS = 15


def bare_app() -> str:
    """The source of an app that declares what ours declares, groups of commands too, and does nothing."""
    lines = ["from typing import Annotated", "import typer"]
    declare_group(lines, "app", typer.main.get_command(app))
    return "\n".join(lines)


def declare_group(lines: list[str], called: str, group: Any) -> None:
    lines.append(f"{called} = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)")
    for name, command in group.commands.items():
        inner = f"{called}_{name.replace('-', '_')}"
        if hasattr(command, "commands"):
            declare_group(lines, inner, command)
            lines.append(f"{called}.add_typer({inner}, name={name!r}, help={command.help!r})")
            continue
        parameters = [declare(p) for p in command.params if p.name != "help"]
        lines += [
            f"@{called}.command({name!r})",
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


def seconds(code: str, screen: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *screen], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    ours, bare = "from detrcli.cli.app import main; main()", "from bare_app import app; app()"
    results = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bare_app.py").write_text(bare_app(), encoding="utf-8")
        for screen in SCREENS:
            pairs = [(seconds(ours, screen, folder), seconds(bare, screen, folder)) for _ in range(ROUNDS + 1)]
            mine, theirs = zip(*pairs[1:], strict=True)  # the first round fills caches
            results.append(
                {
                    "screen": " ".join(["detr", *screen]),
                    "ours_ms": round(1000 * statistics.median(mine), 1),
                    "bare_ms": round(1000 * statistics.median(theirs), 1),
                    "ratio": round(statistics.median(a / b for a, b in pairs[1:]), 2),
                }
            )
    for row in results:
        print(f"{row['screen']:<20} {row['ours_ms']:>6} ms   bare {row['bare_ms']:>6} ms   ratio {row['ratio']}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
