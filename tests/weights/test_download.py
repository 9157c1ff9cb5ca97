"""Fetching, against a server on 127.0.0.1 that redirects, breaks off, lies and is not there."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import python
from server import Server, breaking, failing, redirect, serving, whole

from detrcli.errors import WeightsError
from detrcli.weights import download
from detrcli.weights.download import cached_path, fetch, file_name, hash_in_name

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


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


def test_fetches_once_and_tells_how_far_it_is(server: Server, cache: Path) -> None:
    server.answers["/w.pth"] = whole(BODY)
    told: list[tuple[str, int, int | None]] = []
    path = fetch(f"{server.url}/w.pth", SHA, lambda *progress: told.append(progress))
    assert path.read_bytes() == BODY
    assert told[0] == ("w.pth", 0, len(BODY))
    assert told[-1] == ("w.pth", len(BODY), len(BODY))
    assert fetch(f"{server.url}/w.pth", SHA) == path
    assert server.asked == ["/w.pth"]
    assert files(cache) == ["w.pth"]


def test_start_of_a_hash_is_enough(server: Server) -> None:
    server.answers[f"/w-{SHA[:8]}.pth"] = whole(BODY)
    url = f"{server.url}/w-{SHA[:8]}.pth"
    assert hash_in_name(url) == SHA[:8]
    assert fetch(url, SHA[:8]).read_bytes() == BODY


def test_redirects_are_followed(server: Server) -> None:
    server.answers |= {"/a.pth": redirect("/b"), "/b": redirect("/c.pth"), "/c.pth": whole(BODY)}
    assert fetch(f"{server.url}/a.pth", SHA).name == "a.pth"


def test_broken_connection_is_taken_up_where_it_broke(server: Server) -> None:
    server.answers["/w.pth"] = breaking(BODY, times=3)
    assert fetch(f"{server.url}/w.pth", SHA).read_bytes() == BODY
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for r in server.ranges[1:] if r]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[0] > 0


def test_broken_connection_starts_again_where_it_must(server: Server) -> None:
    server.answers["/w.pth"] = breaking(BODY, times=2, ranges=False)
    assert fetch(f"{server.url}/w.pth", SHA).read_bytes() == BODY


def test_passing_server_errors_are_waited_out(server: Server) -> None:
    server.answers["/w.pth"] = failing(503, whole(BODY), times=2)
    assert fetch(f"{server.url}/w.pth", SHA).read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (whole(BODY[:-1] + b"x"), "what came has the SHA-256"),
        (breaking(BODY, times=99), "the connection ended after"),
        (failing(503, whole(BODY), times=99), "answers 503"),
        (None, "answers 404"),
    ],
    ids=["wrong hash", "truncated", "503", "404"],
)
def test_failures_are_explained_and_leave_nothing(
    server: Server, cache: Path, answer: object, said: str
) -> None:
    if answer:
        server.answers["/w.pth"] = answer
    with pytest.raises(WeightsError, match=said):
        fetch(f"{server.url}/w.pth", SHA)
    assert files(cache) == []
    if said == "answers 404":
        assert len(server.asked) == 1


def test_no_server(cache: Path) -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(WeightsError, match=r"could not be fetched: .*refused"):
        fetch(f"{url}/w.pth", SHA)
    assert files(cache) == []


def test_full_disk_is_not_taken_for_a_broken_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/w.pth"] = whole(BODY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fetch(f"{server.url}/w.pth", SHA, full)
    assert len(server.asked) == 1


FETCH = "import sys; from detrcli.weights.download import fetch; print(fetch(sys.argv[1], sys.argv[2]))"


def slowly(request: object, _: int) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    half = len(BODY) // 2
    request.wfile.write(BODY[:half])
    time.sleep(0.7)
    request.wfile.write(BODY[half:])


def test_two_processes_at_once(server: Server, cache: Path) -> None:
    server.answers["/w.pth"] = slowly
    command = [sys.executable, "-c", FETCH, f"{server.url}/w.pth", SHA]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [Path(process.communicate()[0].strip()) for process in both]
    assert server.asked == ["/w.pth"] * 2
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == BODY
    assert files(cache) == ["w.pth"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_leaves_no_half_file(
    server: Server, cache: Path, sent: signal.Signals, code: int
) -> None:
    def endless(request: object, _: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        request.wfile.write(BODY[:1000])
        request.wfile.flush()
        time.sleep(3)

    server.answers[f"/w-{SHA[:8]}.pth"] = endless
    process = subprocess.Popen(
        python("-m", "detrcli", "predict", __file__, "--weights", f"{server.url}/w-{SHA[:8]}.pth"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not server.asked and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    assert len(files(cache)) == 1
    process.send_signal(sent)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in said
    assert files(cache) == []


def test_file_names_stay_in_their_folder(cache: Path) -> None:
    for url in ("http://h/a/..%2f..%2fevil.pth", "http://h/%00x", "http://h/", "http://h/a/b.pth?x=/../c"):
        assert "/" not in file_name(url)
        assert cached_path(url, SHA).resolve().is_relative_to(cache.resolve())
    assert cached_path("http://a/w.pth", SHA) != cached_path("http://a/w.pth", "0" * 64)
