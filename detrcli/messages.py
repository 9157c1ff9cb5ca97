"""Arguments that messages mention, worded for the interface in use.

The same message is shown by the command line, by Python and on pages, where an argument has different names:
`batch_size` is `--batch-size` for a command. A message contains `argument("batch_size")`, which is worded when shown.
"""

import re
from collections.abc import Callable

Wording = Callable[[str, str | None], str]  # from an argument's name, and a value for it if any, to text
_MARKED = re.compile("\ue000(\\w+(?:\\.\\w+)?)(?:=([^\ue001]*))?\ue001")  # between two private-use characters


def argument(name: str, value: object = None) -> str:
    """Return a mention of an argument or a training setting, with a value for it if one is given."""
    return f"\ue000{name}\ue001" if value is None else f"\ue000{name}={value}\ue001"


def in_python(name: str, value: str | None) -> str:
    """Word an argument as in a call: `size`, or `size=480`."""
    return f"`{name}`" if value is None else f"`{name}={value}`"


def word(message: str, wording: Wording = in_python) -> str:
    """Return the message with the arguments that it mentions in the given wording."""
    return _MARKED.sub(lambda match: wording(match[1], match[2]), message)
