"""The phrases that an open-vocabulary model detects, as the user gives them."""

from collections.abc import Sequence

from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.system.text import escape_controls, normalize_name

TEXT = argument("text")
EXAMPLE = argument("text", '"a cat. a remote control."')


def phrases_of(text: str | Sequence[str]) -> list[str]:
    """Return the phrases of a list, or of a text, separated by periods. Raises UsageError for invalid phrases."""
    parts = text.split(".") if isinstance(text, str) else text
    phrases = [" ".join(part.split()) for part in parts]
    if isinstance(text, str):
        phrases = [phrase for phrase in phrases if phrase]
    if not phrases or not all(phrases):
        raise UsageError(f"{TEXT}: contains no phrase. An example is {EXAMPLE}.")
    seen: set[str] = set()
    for phrase in phrases:
        if escape_controls(phrase) != phrase:
            raise UsageError(f'{TEXT}: "{escape_controls(phrase)}" contains invisible characters.')
        if normalize_name(phrase) in seen:
            raise UsageError(f'{TEXT}: contains "{phrase}" twice.')
        seen.add(normalize_name(phrase))
    return phrases


def phrases_of_classes(names: Sequence[str]) -> list[str]:
    """Return class names as phrases, without names that differ from an earlier one only by case or outer space."""
    first = {normalize_name(name): name for name in reversed(names)}
    return [name for name in names if first.pop(normalize_name(name), None) is not None]
