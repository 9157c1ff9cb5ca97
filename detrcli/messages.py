"""Arguments that messages mention, worded for the interface in use.

The same message is shown by the command line, by Python and on pages, where an argument has different names:
`batch_size` is `--batch-size` for a command. A message contains a marker, `argument("batch_size")`, which is replaced
by the name in use when the message is shown.
"""

import re
from collections.abc import Callable

Wording = Callable[[str, str | None], str]  # (an argument's name, its value or None) -> text
_MARKED = re.compile("\ue000(\\w+(?:\\.\\w+)?)(?:=([^\ue001]*))?\ue001")  # between two private-use characters


def argument(name: str, value: object = None) -> str:
    """Return the marker of an argument or a training setting, and of its value if one is given."""
    return f"\ue000{name}\ue001" if value is None else f"\ue000{name}={value}\ue001"


def in_python(name: str, value: str | None) -> str:
    """Return an argument as in a Python call: `size`, or `size=480`."""
    return f"`{name}`" if value is None else f"`{name}={value}`"


def word(message: str, wording: Wording = in_python) -> str:
    """Return the message with its marked arguments in the given wording."""
    return _MARKED.sub(lambda match: wording(match[1], match[2]), message)
