"""Text from files and the web, made safe to show and to store."""

from collections.abc import Sequence

# Letters and marks that are invisible.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_VARIATIONS = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
_JOINERS = frozenset("\u200c\u200d")
# Control and format characters (bidi included), lone surrogates, unassigned code points, line and paragraph ends.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
_JOINED = frozenset({"So", "Sk", "Lo", "Mn", "Mc"})  # emoji, and letters and marks of scripts without upper case


def escape_controls(text: str) -> str:
    """Escape control, bidi and invisible characters, as in `\\x1b`.

    Joiners between two characters stay, since emoji and many scripts need them.
    """
    if text.isprintable() and _BLANK.isdisjoint(text) and _VARIATIONS.isdisjoint(text):
        return text
    import unicodedata  # slow to import, and this runs for every help screen

    kinds = ["Zs", *map(unicodedata.category, text), "Zs"]  # with a space at either end

    def escape(i: int, char: str) -> str:
        before, kind, after = kinds[i : i + 3]
        if char in _JOINERS:
            hidden = before not in _JOINED or after not in _JOINED
        elif char in _VARIATIONS:
            hidden = before != "So"
        else:
            hidden = kind in _HIDDEN or char in _BLANK
        return ascii(char)[1:-1] if hidden else char

    return "".join(escape(i, char) for i, char in enumerate(text))


def writable(text: str) -> str:
    """Escape characters that no file can hold: lone surrogates and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


# Names of devices on Windows, also with a suffix.
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")})


def as_file_name(text: str) -> str:
    """Return a text as the name of a file or folder, valid and visible on every operating system."""
    import unicodedata  # as above

    text = unicodedata.normalize("NFC", text)  # macOS treats other forms as the same name
    name = "".join("_" if char in '<>:"/\\|?*' or not char.isprintable() else char for char in text)
    name = name.strip(" .").encode()[:200].decode(errors="ignore").rstrip(" .")
    return f"_{name}" if not name or name.split(".")[0].rstrip().upper() in _DEVICES else name


def normalize_name(name: str) -> str:
    """Return the name in lower case and without surrounding space, for comparison."""
    return name.strip().casefold()


def preview(names: Sequence[str], count: int) -> str:
    """Return the first `count` names, with an ellipsis if there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
