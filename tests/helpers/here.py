"""The output of a command that ran in this process or in its own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Shown:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Self:
        assert self.code == 0, self.err
        return self

    def fails(self, code: int, *items: str) -> None:
        """The command printed nothing but an error, which names the items."""
        assert (self.code, self.out) == (code, ""), self.err
        assert all(item in self.err for item in items), self.err


Detr = Callable[..., Shown]


def leaves(group: Any, prefix: str = "") -> list[str]:
    """The commands of an app by their whole names, those of its groups included."""
    names = []
    for name, command in group.commands.items():
        names += leaves(command, f"{prefix}{name} ") if hasattr(command, "commands") else [prefix + name]
    return names
