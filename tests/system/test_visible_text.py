"""Text from files and the web, made safe to show and to store."""

import pytest

from detrcli.system.text import escape_controls, writable


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        *(
            (text, text)
            for text in ("cat", "Żubr 狗 é", "👩‍🚀", "👩🏽‍🚀", "❤️", "می‌خواهم", "क्‍ष", "e\u0301", "two  spaces", "\\x1b")
        ),
        ("a\x1b[31m\r\n\t\x7f\x9b", "a\\x1b[31m\\r\\n\\t\\x7f\\x9b"),
        ("a\u202eb\u2066\u061c", "a\\u202eb\\u2066\\u061c"),
        ("c\u200bat\ufeff\u00ad\u2060", "c\\u200bat\\ufeff\\xad\\u2060"),
        ("a\u200db\u200c", "a\\u200db\\u200c"),
        ("\u200d🚀", "\\u200d🚀"),
        ("cat\U000e0041\U000e007f", "cat\\U000e0041\\U000e007f"),
        ("cat\ufe0f\U000e0101", "cat\\ufe0f\\U000e0101"),
        ("\u115f\u3164\u2800\uffa0", "\\u115f\\u3164\\u2800\\uffa0"),
        ("\ud800\u2028\uffff", "\\ud800\\u2028\\uffff"),
    ],
    ids=ascii,
)
def test_only_invisible_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


def test_characters_that_no_file_can_hold_are_escaped() -> None:
    assert writable("a\0\ud800狗\n") == "a\\x00\\ud800狗\n"
