"""The table of settings in the guide, from the fields of their class.

`PYTHONPATH=. python tests/helpers/settings_table.py` writes it into the page.
"""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import detrcli
from detrcli.training.settings import Settings

PAGE = Path(detrcli.__file__).parent / "guide" / "training.md"
HEAD = "| key | default | meaning |\n|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def settings_table() -> str:
    rows = []
    for field in fields(Settings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        shown = "" if default in (None, {}) else f"`{str(default).lower()}`"
        rows.append(f"| `{field.name}` | {shown} | {field.metadata['meaning']} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: settings_table(), text), encoding="utf-8")
