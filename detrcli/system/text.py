"""Text from files and the web, made safe to show."""

from collections.abc import Sequence

# Characters that reorder a line, on top of the control characters.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """The text with control, escape and bidi characters written out, as \\x1b is for escape."""
    if text.isprintable():  # which none of those is
        return text
    import unicodedata  # slow to import, and on the way of every help screen

    return "".join(
        ascii(char)[1:-1] if char in _BIDI or unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} else char
        for char in text
    )


def writable(text: str) -> str:
    """The text without what no file can hold: half a pair of surrogates, and NUL, written out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def key(name: str) -> str:
    """What names have in common that differ in case and surrounding space only."""
    return name.strip().casefold()


def some(names: Sequence[str], most: int) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
