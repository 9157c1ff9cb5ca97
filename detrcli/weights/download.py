"""Files from the web, checked before they have their name."""

import errno
import hashlib
import os
import re
import urllib.error
import urllib.request
import uuid
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import sleep
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from detrcli import __version__
from detrcli.errors import WeightsError
from detrcli.system.cache import cache_folder

ATTEMPTS = 5
TIMEOUT = 30  # seconds without a byte
PIECE = 1 << 20


class DownloadProgress(Protocol):
    """Is told how far a download is; `total` is None where the server does not say."""

    def __call__(self, name: str, done: int, total: int | None) -> None: ...


def no_progress(name: str, done: int, total: int | None) -> None:
    """For those who do not want to know."""


def cached_path(url: str, sha256: str) -> Path:
    """Where the file of this URL and hash is, or would be. Other contents never share a path."""
    return cache_folder() / sha256.lower() / file_name(url)


def file_name(url: str) -> str:
    """The last part of a URL's path, as a name that any file system takes."""
    return re.sub(r"[^\w.+-]", "_", unquote(urlsplit(url).path).rsplit("/", 1)[-1]) or "weights"


def hash_in_name(url: str) -> str | None:
    """The start of the hash that a file's name promises, as in name-1a2b3c4d.pth."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", file_name(url))
    return found[1] if found else None


def fetch(url: str, sha256: str, progress: DownloadProgress = no_progress) -> Path:
    """The file behind an http(s) URL, from the cache or the web.

    It is written under a name of this process' own, checked against `sha256` (all of it, or its start) and
    then moved to its place in one step: nobody sees half a file, and who fetches the same at the same time
    does no harm.
    """
    path = cached_path(url, sha256)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x+b") as file:
            _fill(file, url, progress)
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(sha256.lower()):
            raise WeightsError(
                f"{url}: what came has the SHA-256 {found}, not {sha256}.\n"
                "It was not kept. Try again; if it stays so, the file or the hash is not the right one."
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _fill(file: IO[bytes], url: str, progress: DownloadProgress) -> None:
    """Write the whole answer into the file; a broken connection is taken up where it broke, if the server can."""
    name = file_name(url)
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(min(2 ** (attempt - 1), 8))
        done = file.tell()
        try:
            with _open(url, done) as answer:
                if answer.status != 206 and done:
                    file.seek(0)
                    file.truncate()
                    done = 0
                length = answer.headers.get("Content-Length")
                total = done + int(length) if length else None
                progress(name, done, total)
                while piece := answer.read(PIECE):
                    file.write(piece)
                    done += len(piece)
                    progress(name, done, total)
                if total is None or done == total:
                    return
                failure = f"the connection ended after {done:,} of {total:,} bytes"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 416, 429):
                raise WeightsError(f"{url}: the server answers {error.code} {error.reason}.") from None
            failure = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the place to go on from is not one of the file
                file.seek(0)
                file.truncate()
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise  # our disk, not their connection
            failure = str(getattr(error, "reason", error)) or type(error).__name__
    raise WeightsError(
        f"{url}: could not be fetched: {failure} ({ATTEMPTS} attempts).\n"
        "Check the network, or fetch the file by other means and give its path as --weights."
    )


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": f"detrcli/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    answer: HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=TIMEOUT
    )
    return answer
