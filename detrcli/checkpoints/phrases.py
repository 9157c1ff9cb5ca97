"""What a model that takes phrases shall look for, as a user says it: `--text "a cat. a remote control."`."""

from collections.abc import Sequence

from detrcli.errors import UsageError
from detrcli.system.text import escape_controls, normalize_name

EXAMPLE = '--text "a cat. a remote control."'
NEEDED = (  # of the weights
    f"{{}}: these weights look for phrases: `detr predict`, `detr eval` and `detr visualize-attn`, which alone take "
    f"them, are told with {EXAMPLE}."
)


def phrases_of(text: str | Sequence[str]) -> list[str]:
    """The phrases of a text, between its full stops, or of a list; a UsageError where they cannot be classes."""
    parts = text.split(".") if isinstance(text, str) else text
    phrases = [" ".join(part.split()) for part in parts]
    if isinstance(text, str):
        phrases = [phrase for phrase in phrases if phrase]
    if not phrases or not all(phrases):
        raise UsageError(f"--text: there is nothing to look for in it. It is given as {EXAMPLE}.")
    seen: set[str] = set()
    for phrase in phrases:
        if escape_controls(phrase) != phrase:
            raise UsageError(f'--text: there are characters that cannot be seen in "{escape_controls(phrase)}".')
        if normalize_name(phrase) in seen:
            raise UsageError(f'--text: "{phrase}" stands in it twice.')
        seen.add(normalize_name(phrase))
    return phrases


def phrases_of_classes(names: Sequence[str]) -> list[str]:
    """The names of classes as phrases: of those that differ in case and surrounding space only, the first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(normalize_name(name), name)
    return list(found.values())
