"""Pages: whole in themselves, and names from files stay text."""

from pathlib import Path

import pytest
from browser import opened
from PIL import Image

from detrcli.render.page import Section, write_page

EVIL = "</script><img src=x onerror=alert(1)>\x1b"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / "page.html"
    write_page(
        path,
        "A page",
        f"of {EVIL} `code`",
        [Section("One", EVIL, EVIL, (EVIL, "n"), [(EVIL, 0.25), ("b", 2)], [(Image.new("RGB", (8, 8)), EVIL)],
                 "<button id=b>press</button>")],
        data={"name": EVIL},
        script="const d = JSON.parse(document.getElementById('data').textContent);"
        "b.onclick = () => { b.textContent = d.name; };",
    )  # fmt: skip
    return path


def test_names_stay_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert "\x1b" not in text
    assert "<code>code</code>" in text
    assert "<td class=number>0.250</td>" in text


def test_it_works_in_a_browser(page: Path) -> None:
    with opened(page) as shown:
        shown.click("#b")
        assert shown.inner_text("#b") == EVIL
        assert shown.evaluate("document.images[0].naturalWidth") == 8
