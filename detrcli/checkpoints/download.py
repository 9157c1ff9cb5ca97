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
from time import monotonic, sleep
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from detrcli import __version__
from detrcli.errors import WeightsError
from detrcli.system.files import cache_folder

ATTEMPTS = 5
TIMEOUT = 30.0  # seconds without a byte
SLOWEST = 1_000  # bytes a second, below which a connection is as good as broken
PIECE = 1 << 20
LONGEST_NAME = 200  # of a file, and room for what stands around it while it is being written


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
    name = unquote(_split(url).path).rsplit("/", 1)[-1]
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[-LONGEST_NAME:] or "weights"


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
    address = _address(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x+b") as file:
            _fill(file, address, progress)
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(sha256.lower()):
            raise WeightsError(
                f"{url}: what came has the SHA-256 {found}, not {sha256}.\n"
                "It was not kept. Try again; if it stays so, the file or the hash is not the right one."
            )
        os.replace(temporary, path)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _split(url: str) -> Any:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise _no_address(url, error) from None


def _no_address(url: str, why: object) -> WeightsError:
    return WeightsError(f"{url}: this is no web address that can be asked: {why}.\nCheck how it is written.")


def _address(url: str) -> str:
    """The URL as it is sent: in ASCII. One that nobody can answer is told at once."""
    parts = _split(url)
    try:
        host = parts.hostname or ""
        if ":" not in host:  # else it is a number of IPv6
            host = host.encode("idna").decode()
        if not re.fullmatch(r"[\w.:%-]+", host, re.ASCII):
            raise ValueError(f"its host is {host!r:.40}")
        if "@" in parts.netloc:
            raise ValueError("names and passwords in it are not sent")
        port = "" if parts.port is None else f":{parts.port}"
        path, query = (quote(part, safe="/%:@!$&'()*+,;=~?") for part in (parts.path, parts.query))
    except ValueError as error:  # a port that is none; a part of a host's name that is empty or too long
        raise _no_address(url, error) from None
    return urlunsplit((parts.scheme, (f"[{host}]" if ":" in host else host) + port, path, query, ""))


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
                total = _total(answer, done)
                progress(name, done, total)
                since, until = done, monotonic() + TIMEOUT
                while piece := answer.read1(PIECE):
                    file.write(piece)
                    done += len(piece)
                    progress(name, done, total)
                    if monotonic() > until:
                        if done - since < SLOWEST * TIMEOUT:
                            raise TimeoutError(f"fewer than {SLOWEST:,} bytes came in a second")
                        since, until = done, monotonic() + TIMEOUT
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


def _total(answer: HTTPResponse, done: int) -> int | None:
    """How many bytes the whole file has, if the server says so."""
    length = (answer.headers.get("Content-Length") or "").strip()
    return done + int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """From http to http or https, and from https to https."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError as error:  # what urllib makes of an address that is none
            where = headers.get("location") or headers.get("uri")
            raise WeightsError(f"{req.full_url}: it leads to {where}, which is no web address ({error}).") from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://" if req.type == "https" else ("http://", "https://")):
            raise WeightsError(
                f"{req.full_url}: it leads to {newurl}, where nothing is fetched from: only from http and https."
            )
        return super().redirect_request(req, fp, code, msg, headers, _address(newurl))


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": f"detrcli/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    answer: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    return answer
