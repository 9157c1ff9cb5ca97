"""The phrases of a text."""

import pytest

from detrcli.checkpoints.phrases import phrases_of, phrases_of_classes
from detrcli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a cat. a remote control.", ["a cat", "a remote control"]),
        ("a cat.a Remote  control", ["a cat", "a Remote control"]),
        ("..a cat. .", ["a cat"]),
        ("a cat.\n\ta\u2028dog", ["a cat", "a dog"]),
        ("caf\u00e9. \u732b", ["caf\u00e9", "\u732b"]),
        ("is it a cat?", ["is it a cat?"]),
        (["St. Bernard", " a cat "], ["St. Bernard", "a cat"]),
    ],
)
def test_phrases(text: str | list[str], phrases: list[str]) -> None:
    assert phrases_of(text) == phrases


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no phrase"),
        (" . . ", "no phrase"),
        ([], "no phrase"),
        (["a cat", " "], "no phrase"),
        ("a cat. a dog. A  cat.", '"A cat" twice'),
        ("a \x1b[31mcat", r'"a \\x1b\[31mcat" contains invisible'),
        ("a \u202ecat", r'"a \\u202ecat" contains invisible'),
        ("a cat\x00", "invisible"),
    ],
)
def test_invalid_phrases(text: str | list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=f"^`text`: .*{reason}"):
        phrases_of(text)


def test_class_names() -> None:
    assert phrases_of_classes(["dog", "Cat", "cat ", "St. Bernard", "DOG"]) == ["dog", "Cat", "St. Bernard"]
