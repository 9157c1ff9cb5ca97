"""The table of settings in the guide, as the settings' class has them.

    PYTHONPATH=. python tests/helpers/settings_table.py

writes it into the page, for example after a setting was added.
"""

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import detrcli
from detrcli.training.settings import Settings

PAGE = Path(detrcli.__file__).parent / "guide" / "training.md"
HEAD = "| key | default | meaning |\n|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def settings_table() -> str:
    """The table, a row for each setting."""
    return HEAD + "".join(_rows(Settings))


def _rows(kind: Any, prefix: str = "") -> Iterator[str]:
    for one in fields(kind):
        key = prefix + one.name.rstrip("_")
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if is_dataclass(default):  # a group of settings
            yield from _rows(default, f"{key}.")
        else:
            shown = "" if default in (None, {}) else f"`{str(default).lower()}`"
            yield f"| `{key}` | {shown} | {one.metadata['meaning']} |\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: settings_table(), text), encoding="utf-8")
