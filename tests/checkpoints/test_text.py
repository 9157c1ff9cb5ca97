"""What `--text` says."""

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
    ("text", "said"),
    [
        ("", "nothing to look for"),
        (" . . ", "nothing to look for"),
        ([], "nothing to look for"),
        (["a cat", " "], "nothing to look for"),
        ("a cat. a dog. A  cat.", '"A cat" stands in it twice'),
        ("a \x1b[31mcat", r'cannot be seen in "a \\x1b\[31mcat"'),
        ("a \u202ecat", r'cannot be seen in "a \\u202ecat"'),
        ("a cat\x00", "cannot be seen"),
    ],
)
def test_what_is_no_phrase_is_said(text: str | list[str], said: str) -> None:
    with pytest.raises(UsageError, match=f"^--text: .*{said}"):
        phrases_of(text)


def test_names_of_classes() -> None:
    assert phrases_of_classes(["dog", "Cat", "cat ", "St. Bernard", "DOG"]) == ["dog", "Cat", "St. Bernard"]
