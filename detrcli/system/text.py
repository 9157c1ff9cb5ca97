"""Text from files and the web, made safe to show."""

from collections.abc import Sequence

# Letters and marks that take no room, or show nothing in it.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_VARIATIONS = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
_JOINERS = frozenset("\u200c\u200d")
# Control and format characters, the bidi ones among them; halves of surrogates, what is no character, ends of lines.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
_JOINED = frozenset({"So", "Sk", "Lo", "Mn", "Mc"})  # emoji, and letters and marks without upper case


def escape_controls(text: str) -> str:
    """The text with control, escape, bidi and invisible characters written out, as \\x1b is for escape.

    Joiners stay where emoji and many scripts need them: between two characters that they join.
    """
    if text.isprintable() and _BLANK.isdisjoint(text) and _VARIATIONS.isdisjoint(text):
        return text
    import unicodedata  # slow to import, and on the way of every help screen

    kinds = ["Zs", *map(unicodedata.category, text), "Zs"]

    def shown(i: int, char: str) -> str:
        before, kind, after = kinds[i : i + 3]
        if char in _JOINERS:
            hidden = before not in _JOINED or after not in _JOINED
        elif char in _VARIATIONS:
            hidden = before != "So"
        else:
            hidden = kind in _HIDDEN or char in _BLANK
        return ascii(char)[1:-1] if hidden else char

    return "".join(shown(i, char) for i, char in enumerate(text))


def writable(text: str) -> str:
    """The text without what no file can hold: half a pair of surrogates, and NUL, written out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def normalize_name(name: str) -> str:
    """What names have in common that differ in case and surrounding space only."""
    return name.strip().casefold()


def preview(names: Sequence[str], most: int) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
