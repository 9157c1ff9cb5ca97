"""A headless browser for the pages that commands write, where there is one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@contextmanager
def opened(path: Path, *, width: int = 1280, folder: bool = False) -> Iterator[Any]:
    """A page opened from disk. When the block ends, it must have asked for nothing and met no error.

    With `folder` it may ask for what lies beside it.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("there is no browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.resolve().as_uri())
        yield page
        browser.close()
    asked = [url for url in asked if not url.startswith(("data:", "blob:"))]
    if folder:
        assert all(url.startswith(path.resolve().parent.as_uri()) for url in asked), asked
    else:
        assert asked == [path.resolve().as_uri()]
    assert errors == []
