"""A headless browser for the pages that commands write, if the machine has one."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@contextmanager
def opened(page_at: Path | str, *, width: int = 1280, folder: bool = False) -> Iterator[Any]:
    """A page on disk or at an address, which must not request other files, unless beside it with `folder`, or have
    errors.
    """
    address = page_at if isinstance(page_at, str) else page_at.resolve().as_uri()
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
        page.goto(address)
        yield page
        browser.close()
    requested = [url for url in requested if not url.startswith(("data:", "blob:"))]
    if folder:
        assert all(url.startswith(address.partition("?")[0].rpartition("/")[0]) for url in requested), requested
    else:
        assert requested == [address]
    assert errors == []


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server for the files of a folder, as `python -m http.server`."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
