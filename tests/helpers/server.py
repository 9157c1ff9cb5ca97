"""A small web server on 127.0.0.1 that can misbehave."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Server:
    """Records requests; `answers` maps a path to a function of the request and its number, from 0."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.url = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        number = self.asked.count(path)
        self.asked.append(path)
        self.ranges.append(request.headers.get("Range"))
        answer = self.answers.get(path)
        if answer is None:
            request.send_error(404)
        else:
            answer(request, number)


def whole(body: bytes, *, ranges: bool = True, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """The file, or the requested range."""
    return lambda request, _: send(request, body, ranges=ranges, headers=headers)


def send(
    request: BaseHTTPRequestHandler,
    body: bytes,
    *,
    ranges: bool = True,
    stop_after: int | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> None:
    wanted = request.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
    request.send_response(206 if start else 200)
    for name, value in (*headers, ("Content-Length", str(len(body) - start))):
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[start:stop_after])


def breaking(body: bytes, *, times: int, ranges: bool = True) -> Answer:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        cut = len(body) * (number + 1) // (times + 1) if number < times else None
        send(request, body, ranges=ranges, stop_after=cut)

    return answer


def redirect(path: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    def answer(request: BaseHTTPRequestHandler, _: int) -> None:
        request.send_response(302)
        for name, value in (*headers, ("Content-Length", "0")):
            request.send_header(name, value)
        request.send_header("Location", path)
        request.end_headers()

    return answer


def failing(status: int, then: Answer, *, times: int) -> Answer:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if number < times:
            request.send_error(status)
        else:
            then(request, number)

    return answer


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put_repository(
    server: Server,
    name: str,
    files: Mapping[str, bytes],
    *,
    commit: str = "c" * 40,
    revisions: Sequence[str] = ("main",),
) -> None:
    """Serve a repository as the hub does: its API, files, and a redirection to the storage of large files."""
    siblings: list[dict[str, object]] = []
    for file, data in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        headers = [("X-Repo-Commit", commit)]
        siblings.append({"rfilename": file, "size": len(data), "blobId": blob})
        address = f"/{name}/resolve/{commit}/{file}"
        if file.endswith(".safetensors"):
            siblings[-1]["lfs"] = {"size": len(data), "sha256": hash_of(data), "pointerSize": 130}
            headers += [("X-Linked-ETag", f'"{hash_of(data)}"'), ("X-Linked-Size", str(len(data)))]
            storage = f"/storage/{hash_of(data)}"
            other_host = server.url.replace("127.0.0.1", "localhost")
            server.answers[address] = redirect(other_host + storage, headers)
            server.answers[storage] = whole(data, headers=[("ETag", '"storage"')])
        else:
            server.answers[address] = whole(data, headers=[*headers, ("ETag", f'"{blob}"')])
    info = {"id": name, "modelId": name, "sha": commit, "siblings": siblings}
    for revision in (*revisions, commit):
        server.answers[f"/api/models/{name}/revision/{revision}"] = whole(json.dumps(info).encode())


@contextmanager
def serving_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve a hub for the client of this process, which caches in the folder."""
    monkeypatch.setenv("DETR_CACHE", str(folder / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server requires
            server.handle(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        http.shutdown()
        thread.join()
