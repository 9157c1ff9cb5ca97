"""A headless browser for the pages that commands write, if the machine has one."""

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
    """A page opened from disk, which must not request other files, unless beside it with `folder`, or have errors."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": width, "height": 900})
        requested: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.resolve().as_uri())
        yield page
        browser.close()
    requested = [url for url in requested if not url.startswith(("data:", "blob:"))]
    if folder:
        assert all(url.startswith(path.resolve().parent.as_uri()) for url in requested), requested
    else:
        assert requested == [path.resolve().as_uri()]
    assert errors == []
