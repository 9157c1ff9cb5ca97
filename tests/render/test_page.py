"""Pages are self-contained, and names from files stay text."""

from pathlib import Path

from browser import opened
from PIL import Image

from detrcli.render.page import Section, write_page

EVIL = "</script><img src=x onerror=alert(1)>\x1b"


def test_names_stay_text_and_the_script_runs(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "page.html"
    section = Section(
        "Section", EVIL, EVIL, (EVIL, "n"), [(EVIL, 0.25), ("b", 2)], [(Image.new("RGB", (8, 8)), EVIL)],
        "<button id=b>press</button>",
    )  # fmt: skip
    write_page(
        path, "A page", f"{EVIL} `code`", [section], data={"name": EVIL},
        script="const d = JSON.parse(document.getElementById('data').textContent);"
        "b.onclick = () => { b.textContent = d.name; };",
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert "\x1b" not in text
    assert "<code>code</code>" in text
    assert "<td class=number>0.250</td>" in text
    with opened(path) as page:
        page.click("#b")
        assert page.inner_text("#b") == EVIL
        assert page.evaluate("document.images[0].naturalWidth") == 8
