"""What the command line showed when it ran in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shown:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Detr = Callable[..., Shown]


def leaves(group: Any, prefix: str = "") -> list[str]:
    """The commands of an app by their whole names, those of its groups included."""
    names = []
    for name, command in group.commands.items():
        names += leaves(command, f"{prefix}{name} ") if hasattr(command, "commands") else [prefix + name]
    return names
