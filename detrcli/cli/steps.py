"""Commands of this program, run in a folder, and shown with their results in the sections of a page."""

import os
import shlex
import subprocess
import sys
from json import loads
from pathlib import Path
from typing import Any

import typer

from detrcli.cli.console import STDERR
from detrcli.data.images import open_image
from detrcli.render.draw import grid_figure
from detrcli.render.page import Section
from detrcli.system.files import cache_folder


class Steps:
    """Commands, run in a folder, and the sections of the page about them."""

    def __init__(self, folder: Path, device: str, *, quiet: bool) -> None:
        self.folder, self.device, self.quiet = folder, device, quiet
        self.commands: list[str] = []
        self.sections: list[Section] = []
        self._shown = 0  # commands that are in a section

    def run(self, *command: str, json: bool = False) -> Any:
        """Run a command, whose progress and warnings are shown. Return its JSON document if requested."""
        self.commands.append(f"detr {shlex.join(command)}")
        self.say(f"$ {self.commands[-1]}")
        options = ("--device", self.device, "--json") if json else ()
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "detrcli", *command, *options],
            cwd=self.folder,
            env={**os.environ, "DETR_CACHE": str(cache_folder().absolute())},  # a relative path stays the same folder
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                output, _ = process.communicate()
            except (KeyboardInterrupt, SystemExit):
                # A terminal signals the step too, a scheduler does not. Training takes time to save.
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            STDERR.note(f"the demo ends here: detr {command[0]} failed with exit code {process.returncode}")
            raise typer.Exit(process.returncode)
        return loads(output) if json else None

    def evaluate(self, *arguments: str) -> dict[str, Any]:
        """Run `detr eval`, and print its AP."""
        document: dict[str, Any] = self.run("eval", *arguments, json=True)
        metrics = document["metrics"]
        self.say(f"  AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f} on {document['images']} images")
        return document

    def say(self, text: str) -> None:
        """Print a line, in step with what the commands print on stderr."""
        if not self.quiet:
            print(text, flush=True)

    def show(self, title: str, text: str, *figures: tuple[str, str], **content: Any) -> None:
        """Add a section with the commands since the last one, and figures with their captions."""
        shown = [(self._figure(self.folder / file), caption) for file, caption in figures]
        commands = "\n".join(self.commands[self._shown :])
        self.sections.append(Section(title, text, commands, figures=shown, **content))
        self._shown = len(self.commands)

    def _figure(self, path: Path) -> Any:
        """Open a figure, or the figures of a folder as a grid."""
        if path.is_dir():
            return grid_figure([(open_image(file).image, file.name) for file in sorted(path.iterdir())])
        return open_image(path).image
