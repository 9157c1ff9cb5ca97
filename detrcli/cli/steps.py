"""Commands of this program that one of them runs, as a user would."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from detrcli.cli.console import warn
from detrcli.system.files import cache_folder


@dataclass
class Steps:
    """Commands of this program, run in the demo's folder and remembered."""

    folder: Path
    device: str
    quiet: bool
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, *command: str, also: tuple[str, ...] = ()) -> str:
        """What a command prints; its progress and its warnings appear as it says them."""
        self.commands.append(command)
        self.say(f"$ detr {shlex.join(command)}", indent="")
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "detrcli", *command, *also],
            cwd=self.folder,
            # Another folder to be in must not make it another cache.
            env={**os.environ, "DETR_CACHE": str(cache_folder().absolute())},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                answer, _ = process.communicate()
            except (KeyboardInterrupt, SystemExit):
                # A terminal tells the step as well, a scheduler does not. It may take its time: training saves.
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            warn(f"the demo ends here: detr {command[0]} left with exit code {process.returncode}")
            raise typer.Exit(process.returncode)
        return answer

    def ask(self, *command: str) -> dict[str, Any]:
        """The JSON document that a command prints."""
        answer: dict[str, Any] = json.loads(self.run(*command, also=("--device", self.device, "--json")))
        return answer

    def say(self, what: str, indent: str = "  ") -> None:
        """A line for people, in step with what the commands say on stderr."""
        if not self.quiet:
            print(f"{indent}{what}", flush=True)
