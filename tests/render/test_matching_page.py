"""The page of a matching: its controls move through layers, queries and terms, and names stay text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import opened
from PIL import Image
from test_matching_figure import CAT, NOTHING, report_of

from detrcli.inspection.report import MatchReport
from detrcli.render.matching_page import write_matching_page
from detrcli.resize import Letterbox
from detrcli.structures import Classes, Target

EVIL = "cat</script>\x1b[31m"


@pytest.fixture
def report() -> MatchReport:
    """Two objects of a picture in a letterbox of twice its height, three queries, of which one is unmatched."""
    target = Target(torch.tensor([0, 1]), torch.tensor([[0.25, 0.5, 0.2, 0.2], [0.75, 0.5, 0.2, 0.3]]))
    queries = [(CAT, [0.3, 0.5, 0.2, 0.2]), (NOTHING, [0.8, 0.5, 0.2, 0.2]), (NOTHING, [0.5, 0.6, 0.1, 0.1])]
    made = report_of(queries, target, layers=2, placement=Letterbox(100, 100).place(50, 100))
    return replace(made, classes=Classes(ids=np.array([1, 2]), names=np.array([EVIL, "dog"])))


def test_every_control_moves_the_page(report: MatchReport, tmp_path: Path) -> None:
    write_matching_page(tmp_path / "a.html", report, Image.new("RGB", (100, 50)))
    last = report.layers[-1]
    with opened(tmp_path / "a.html") as page:
        assert "layer 1" in page.inner_text("#layer-name")
        assert page.locator("#boxes rect.object").count() == 2
        page.select_option("#query", "0")
        said = page.inner_text("#said")
        assert said.startswith("Query 0 predicts cat</script>\\x1b[31m (0.900). It is matched to object 0")
        assert f"runner-up: query {last.pairs[0].runner_up}" in said
        chosen = page.locator("#boxes rect.chosen")
        assert float(chosen.get_attribute("x")) == pytest.approx(20, abs=0.01)
        assert float(chosen.get_attribute("height")) == pytest.approx(20, abs=0.01)  # 0.2 of twice the height
        cell = page.locator("#costs tr[data-query='0'] td").first
        assert float(cell.inner_text()) == pytest.approx(float(last.total[0, 0]), abs=0.006)
        page.select_option("#term", "l1")
        assert float(cell.inner_text()) == pytest.approx(5 * float(last.terms["l1"][0, 0]), abs=0.006)
        page.click("#costs tr[data-query='2']")
        assert page.input_value("#query") == "2"
        assert "no object, at best" in page.inner_text("#said")
        assert page.inner_text("#said").endswith("It is unmatched.")
        page.evaluate("const s = document.getElementById('layer'); s.value = 0; s.oninput()")
        assert "layer 0" in page.inner_text("#layer-name")


def test_names_stay_text(report: MatchReport, tmp_path: Path) -> None:
    write_matching_page(tmp_path / "a.html", report, Image.new("RGB", (100, 50)))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "\x1b" not in text
