"""Downloads of files, which get their names only after their hash was checked."""

import errno
import hashlib
import os
import re
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from detrcli.errors import WeightsError
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.system.files import cache_folder, write_whole

ATTEMPTS = 5
TIMEOUT = 30.0  # seconds without a byte
MIN_SPEED = 1_000  # bytes per second, below which a connection counts as broken
CHUNK = 1 << 20
NAMES = {"sha256": "SHA-256", "md5": "MD5"}
MAX_NAME = 200  # characters of a file's name; a temporary name is longer
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


class UnreachableError(WeightsError):
    """The server of a download is unknown or has no route, mostly because the machine is offline."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}. Is there a network?")
        self.reason = reason


@dataclass(frozen=True)
class RemoteFile:
    """A file with a published hash."""

    address: str
    hash: str  # or its start
    algorithm: Literal["sha256", "md5"] = "sha256"

    @property
    def path(self) -> Path:
        return cached_path(self.address, self.hash)

    def is_cached(self) -> bool:
        return self.path.exists()

    def fetch(self, reporter: Reporter = SILENT) -> Path:
        return fetch(self.address, self.hash, reporter, algorithm=self.algorithm)


def check_reachable(url: str) -> None:
    """Raise UnreachableError if the name of the server cannot be resolved. A proxy resolves names itself."""
    parts = urlsplit(_address(url))
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.getaddrinfo(host, parts.port or parts.scheme, type=socket.SOCK_STREAM)
    except socket.gaierror:
        raise _unreachable(url) from None


def _unreachable(url: str) -> UnreachableError:
    return UnreachableError(url, f"{urlsplit(url).hostname} cannot be reached")


def cached_path(url: str, sha256: str) -> Path:
    """Return the path of a URL's file in the cache. Files with different hashes have different paths."""
    return cache_folder() / sha256.lower() / file_name(url)


def file_name(url: str) -> str:
    """Return the last part of a URL's path, with characters that all file systems accept."""
    path = re.split(r"[?#]", url.partition("://")[2])[0].partition("/")[2]
    name = unquote(path).rsplit("/", 1)[-1]
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[-MAX_NAME:] or "weights"


def hash_in_name(url: str) -> str | None:
    """Return the start of the hash in a file's name, as in name-1a2b3c4d.pth."""
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", file_name(url))
    return match[1] if match else None


def fetch(
    url: str, expected: str, reporter: Reporter = SILENT, *, algorithm: Literal["sha256", "md5"] = "sha256"
) -> Path:
    """Return the file of an http(s) URL, from the cache or downloaded.

    It is written under a temporary name, checked against the `expected` hash (or the start of one) and then renamed. So
    no other process reads an incomplete file, and several can download the same file. With an MD5, the SHA-256 of the
    first download is stored beside the file, and every use and later download must have it.
    """
    path = cached_path(url, expected)
    record = path.with_name(f"{path.name}.sha256")
    if path.exists():
        if algorithm == "md5":
            _check_recorded(path, record, url)
        return path
    address = _address(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x+b") as file:
            _download(file, address, reporter)
            file.seek(0)
            digest = hashlib.file_digest(file, algorithm).hexdigest()
        if not digest.startswith(expected.lower()):
            raise WeightsError(
                f"{url}: the downloaded file has the {NAMES[algorithm]} {digest}, not {expected}.\n"
                "It was deleted. Try again. If the error remains, the file or the hash is wrong."
            )
        if algorithm == "md5":
            _check_recorded(temporary, record, url)
        os.replace(temporary, path)
    except OSError as error:  # without a file name if the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _check_recorded(path: Path, record: Path, url: str) -> None:
    """Compare the SHA-256 of a file with the recorded one, or record it. Raises WeightsError if they differ."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not record.exists():
        write_whole(record, digest.encode())
    elif (recorded := record.read_text(encoding="ascii", errors="replace").strip()) != digest:
        raise WeightsError(
            f"{url}: the file has the SHA-256 {digest}, and the first download had {recorded}.\n"
            f"Delete {record.parent} if the file was changed on purpose."
        )


def _address(url: str) -> str:
    """Return the URL in ASCII. Raises WeightsError for an invalid URL."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if ":" not in host:  # else it is an IPv6 address
            host = host.encode("idna").decode()
        if not re.fullmatch(r"[\w.:%-]+", host, re.ASCII):
            raise ValueError(f"its host is {host!r:.40}")
        if "@" in parts.netloc:
            raise ValueError("it contains a user name, which is not sent")
        port = "" if parts.port is None else f":{parts.port}"
        path, query = (quote(part, safe="/%:@!$&'()*+,;=~?") for part in (parts.path, parts.query))
    except ValueError as error:  # also for an invalid port, and for parts of a host that are empty or too long
        raise WeightsError(f"{url}: not a valid web address: {error}.\nCheck its spelling.") from None
    return urlunsplit((parts.scheme, (f"[{host}]" if ":" in host else host) + port, path, query, ""))


def _download(file: IO[bytes], url: str, reporter: Reporter) -> None:
    """Write the response to the file. A broken connection is resumed, if the server can."""
    failure = ""
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                sleep(min(2 ** (attempt - 1), 8))
            try:
                with _open(url, file.tell()) as response:
                    if response.status != 206:
                        _restart(file, advance)
                    length = (response.headers.get("Content-Length") or "").strip()
                    total = file.tell() + int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
                    if advance is None:
                        progress = reporter.progress(f"downloading {file_name(url)}", total, "bytes")
                        advance = stack.enter_context(progress)
                    _copy(response, file, advance)
                    if total is None or file.tell() == total:
                        return
                    failure = f"the connection ended after {file.tell():,} of {total:,} bytes"
            except urllib.error.HTTPError as error:
                error.close()
                failure = f"the server answers {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 416, 429):
                    raise WeightsError(f"{url}: {failure}.") from None
                if error.code == 416:  # it does not resume at this position
                    _restart(file, advance)
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise  # of the disk, not of the connection
                reason = getattr(error, "reason", error)
                if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in NO_ROUTE:
                    raise _unreachable(url) from None
                failure = str(reason) or type(error).__name__
    raise WeightsError(
        f"{url}: the download failed: {failure} ({ATTEMPTS} attempts).\n"
        f"Check the network, or get the file in another way and give its path as {argument('weights')}."
    )


def _restart(file: IO[bytes], advance: Callable[[int], None] | None) -> None:
    if advance is not None:
        advance(-file.tell())
    file.seek(0)
    file.truncate()


def _copy(response: HTTPResponse, file: IO[bytes], advance: Callable[[int], None]) -> None:
    """Append the body to the file. Raises TimeoutError if it arrives too slowly."""
    start, until = file.tell(), monotonic() + TIMEOUT
    while chunk := response.read1(CHUNK):
        file.write(chunk)
        advance(len(chunk))
        if monotonic() > until:
            if file.tell() - start < MIN_SPEED * TIMEOUT:
                raise TimeoutError(f"fewer than {MIN_SPEED:,} bytes arrived per second")
            start, until = file.tell(), monotonic() + TIMEOUT


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects from http to http or https, and from https to https."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError as error:  # urllib's for an invalid address
            location = headers.get("location") or headers.get("uri")
            raise WeightsError(f"{req.full_url}: redirects to {location}, which is not valid ({error}).") from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://" if req.type == "https" else ("http://", "https://")):
            raise WeightsError(f"{req.full_url}: redirects to {newurl}, which is not allowed.")
        return super().redirect_request(req, fp, code, msg, headers, _address(newurl))


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "detrcli"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)
    response: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    return response
