"""Downloads from a server on 127.0.0.1 that redirects, breaks connections, sends wrong files or is absent."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from here import python
from server import Answer, Server, breaking, failing, redirect, send, serving, whole

from detrcli.checkpoints import download
from detrcli.checkpoints.download import cached_path, fetch, file_name, hash_in_name
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import is_url
from detrcli.errors import WeightsError
from detrcli.reporter import Reporter

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()
FETCH = "import sys; from detrcli.checkpoints.download import fetch; print(fetch(sys.argv[1], sys.argv[2]))"


class Bar(Reporter):
    """Records progress; on a full disk, raises instead."""

    def __init__(self, *, full: bool = False) -> None:
        self.operations: list[tuple[str, int | None, str]] = []
        self.done, self.full = [0], full

    @contextmanager
    def progress(self, what: str, total: int | None = None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        self.operations.append((what, total, unit))

        def advance(steps: int) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            self.done.append(self.done[-1] + steps)

        yield advance


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "sleep", lambda _: None)
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def sending(length: str, *parts: bytes, pause: float = 0) -> Answer:
    """Send a length, and parts of a body with pauses between them."""

    def answer(request: BaseHTTPRequestHandler, _: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", length)
        request.end_headers()
        with contextlib.suppress(OSError):  # the client may disconnect
            for part in parts:
                request.wfile.write(part)
                request.wfile.flush()
                time.sleep(pause)

    return answer


def test_a_file_is_downloaded_once(server: Server, cache: Path) -> None:
    server.answers["/w.pth"] = whole(BODY)
    bar = Bar()
    path = fetch(f"{server.url}/w.pth", SHA, bar)
    assert path.read_bytes() == BODY
    assert bar.operations == [("downloading w.pth", len(BODY), "bytes")]
    assert bar.done == sorted(bar.done)
    assert bar.done[-1] == len(BODY)
    assert fetch(f"{server.url}/w.pth", SHA) == path
    assert server.asked == ["/w.pth"]
    assert files(cache) == ["w.pth"]


@pytest.mark.parametrize(
    ("answers", "sha256"),
    [
        ({"/w.pth": redirect("/b"), "/b": redirect("/c.pth"), "/c.pth": whole(BODY)}, SHA),
        ({"/w.pth": failing(503, whole(BODY), times=2)}, SHA),
        ({"/w.pth": whole(BODY)}, SHA[:8]),
    ],
    ids=["redirects", "503", "start of a hash"],
)
def test_redirects_and_temporary_errors(server: Server, answers: dict[str, Answer], sha256: str) -> None:
    server.answers |= answers
    path = fetch(f"{server.url}/w.pth", sha256)
    assert (path.name, path.read_bytes()) == ("w.pth", BODY)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_connection(server: Server, resumes: bool) -> None:
    """The download continues where it ended if the server can, else it starts again; and so does its progress."""
    server.answers["/w.pth"] = breaking(BODY, times=2, ranges=resumes)
    bar = Bar()
    assert fetch(f"{server.url}/w.pth", SHA, bar).read_bytes() == BODY
    starts = [int((r or "").removeprefix("bytes=").removesuffix("-")) for r in server.ranges[1:]]
    assert len(starts) == 2
    assert min(starts) > 0
    assert len(bar.operations) == 1
    assert bar.done.count(0) == (1 if resumes else 3)
    assert (bar.done == sorted(bar.done)) is resumes
    assert (starts == sorted(set(starts))) is resumes or not resumes
    assert bar.done[-1] == len(BODY)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (whole(BODY[:-1] + b"x"), f"has the SHA-256 .*, not {SHA}"),
        (breaking(BODY, times=99), "the connection ended after"),
        (failing(503, whole(BODY), times=99), "answers 503"),
        (None, "answers 404"),
    ],
    ids=["wrong hash", "truncated", "503", "404"],
)
def test_failures_leave_nothing(server: Server, cache: Path, answer: Answer | None, reason: str) -> None:
    if answer:
        server.answers["/w.pth"] = answer
    with pytest.raises(WeightsError, match=reason):
        fetch(f"{server.url}/w.pth", SHA)
    assert files(cache) == []
    if answer is None:
        assert len(server.asked) == 1


def test_no_server(cache: Path) -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(WeightsError, match="refused"):
        fetch(f"{url}/w.pth", SHA)
    assert files(cache) == []


def test_two_processes_at_once(server: Server, cache: Path) -> None:
    half = len(BODY) // 2
    server.answers["/w.pth"] = sending(str(len(BODY)), BODY[:half], BODY[half:], pause=0.7)
    command = [sys.executable, "-c", FETCH, f"{server.url}/w.pth", SHA]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [Path(process.communicate()[0].strip()) for process in both]
    assert server.asked == ["/w.pth"] * 2
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == BODY
    assert files(cache) == ["w.pth"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_an_interrupted_download(server: Server, cache: Path, sent: signal.Signals, code: int) -> None:
    server.answers[f"/w-{SHA[:8]}.pth"] = sending(str(len(BODY)), BODY[:1000], pause=3)
    process = subprocess.Popen(
        python("-m", "detrcli", "predict", __file__, "--weights", f"{server.url}/w-{SHA[:8]}.pth"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not server.asked and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    assert len(files(cache)) == 1
    process.send_signal(sent)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert files(cache) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://[::1/w.pth", "Invalid IPv6 URL"),
        ("http:///w.pth", "its host is ''"),
        ("http://a b/w.pth", "its host is 'a b'"),
        (f"http://{'a' * 300}.org/w.pth", "label empty or too long"),
        ("http://a..org/w.pth", "label empty or too long"),
        ("http://127.0.0.1:99999/w.pth", "Port out of range"),
        ("http://127.0.0.1:x/w.pth", "Port could not be cast"),
        ("http://me:word@127.0.0.1/w.pth", "user name"),
        ("http://\udce9/w.pth", "Invalid character"),
    ],
)
def test_invalid_addresses(url: str, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_open", lambda *_: pytest.fail("a request was sent"))
    with pytest.raises(WeightsError, match=rf"not a valid web address: .*{reason}"):
        load_checkpoint(url, sha256=SHA)
    assert not cache.exists()


def test_addresses_are_sent_in_ascii(server: Server) -> None:
    server.answers["/mod%C3%A8le%20a.pth"] = whole(BODY)
    url = f"{server.url}/mod\u00e8le a.pth".replace("http", "HTTP")
    assert is_url(url)
    assert fetch(url, SHA).name == "mod_le_a.pth"
    expected = "http://xn--9ca.org:80/%41/%C3%A9?q=%C3%A9"
    assert download._address("http://\u00e9.org:80/%41/\u00e9?q=\u00e9#part") == expected
    assert download._address("http://[::1]:8/a") == "http://[::1]:8/a"


def test_an_invalid_length_is_ignored(server: Server) -> None:
    for number, length in enumerate(("abc", "-5", "1e3", "", "9" * 5000, "3, 3", "\u00b2")):
        server.answers[f"/{number}.pth"] = sending(length, BODY)
        bar = Bar()
        assert fetch(f"{server.url}/{number}.pth", SHA, bar).read_bytes() == BODY
        assert bar.operations[0][1] is None


@pytest.mark.parametrize(
    "place", ["http://[::1", "http://\u00e9/x", "http://127.0.0.1:99999/", "ftp://127.0.0.1/w.pth", "file:///etc/hosts"]
)
def test_invalid_redirects(server: Server, cache: Path, place: str) -> None:
    server.answers["/w.pth"] = redirect(place)
    with pytest.raises(WeightsError, match=r"redirects to|not a valid|is not allowed"):
        fetch(f"{server.url}/w.pth", SHA)
    assert server.asked == ["/w.pth"]
    assert files(cache) == []


def test_redirects_from_https_to_http() -> None:
    request = urllib.request.Request("https://a.org/w.pth")
    with pytest.raises(WeightsError, match="redirects to http://a.org/w.pth"):
        download._Redirects().redirect_request(request, None, 302, "", {}, "http://a.org/w.pth")
    followed = download._Redirects().redirect_request(request, None, 302, "", {}, "https://b.org/\u00e9")
    assert followed.full_url == "https://b.org/%C3%A9"


def test_a_slow_connection_counts_as_broken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    slow = sending(str(len(BODY)), *(BODY[i : i + 1] for i in range(100)), pause=0.05)
    server.answers["/w.pth"] = lambda request, n: send(request, BODY) if n == 2 else slow(request, n)
    assert fetch(f"{server.url}/w.pth", SHA).read_bytes() == BODY
    assert len(server.asked) == 3


def test_a_full_disk(server: Server, cache: Path) -> None:
    """The error names the file, and the download is not repeated as after a broken connection."""
    server.answers["/w.pth"] = whole(BODY)
    with pytest.raises(OSError, match=r"No space left on device: .*w\.pth") as error:
        fetch(f"{server.url}/w.pth", SHA, Bar(full=True))
    assert len(server.asked) == 1
    assert error.value.filename == str(cached_path(f"{server.url}/w.pth", SHA))
    assert files(cache) == []


def test_file_names(cache: Path) -> None:
    """They fit any disk, keep their end with the hash, and stay in their folder."""
    url = f"http://h/{'a' * 300}-{SHA[:8]}.pth"
    assert len(file_name(url)) == 200
    assert hash_in_name(url) == SHA[:8]
    assert file_name("http://h/\u72d7.pth") == "_.pth"
    for url in ("http://h/a/..%2f..%2fevil.pth", "http://h/%00x", "http://h/", "http://h/a/b.pth?x=/../c"):
        assert "/" not in file_name(url)
        assert cached_path(url, SHA).resolve().is_relative_to(cache.resolve())
    assert cached_path("http://a/w.pth", SHA) != cached_path("http://a/w.pth", "0" * 64)
