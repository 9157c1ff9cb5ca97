"""`detr demo`: a tour of all commands on built-in data.

Why: a new user sees within minutes, offline and on a CPU, what the program does, and that the installation works. Each
step is a command in a process of its own, so that the page can show it, and it can be repeated by hand.
It evaluates the shipped weights, makes a dataset of classes that they do not know, trains on it from scratch and from
the weights, evaluates, predicts, draws attention and matching, and writes a report. `tour` has the steps and the page.
Deleting it costs only this command, and the end-to-end test of the whole program that it is: no other code depends on
it. The README begins with it.
Tests: tests/cli/test_demo.py with `-m slow` runs it in a browser; without, only its checks of the output folder.
"""

from pathlib import Path
from typing import Annotated

from detrcli.cli.console import STDERR, print_json
from detrcli.cli.options import Device, Json, option
from detrcli.cli.outputs import check_free
from detrcli.system.files import next_free_folder

FOLDER = "demo"


def demo(
    out: Annotated[Path | None, option("DIR", "Folder for all results. [demo, numbered]")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Run a tour of all commands on built-in data, in minutes."""
    from detrcli.cli.tour import run_tour  # slow to import

    if out is None:
        out = next_free_folder(FOLDER)
        STDERR.note(f"writing to {out}")
    else:
        check_free(out, folder=True)
        out.mkdir(parents=True, exist_ok=True)
    document = run_tour(out, device, quiet=json)
    if json:
        print_json(document)
    else:
        print(f"\nDone in {document['seconds'] / 60:.1f} minutes. See {document['page']}")
