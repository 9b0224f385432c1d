"""A Hugging Face Hub on the loopback device: as much of it as huggingface_hub asks for, with faults on demand.

Large files (LFS) are redirected to a second server of another origin, as the real Hub redirects to its storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" * 6 + "c0de"
LARGE = 10_000
"""Bytes from which a file lies in the second server."""


def safetensors(size: int, seed: int = 0) -> bytes:
    """A whole safetensors file with one tensor of `size` bytes that do not repeat."""
    block = hashlib.shake_256(str(seed).encode()).digest(size)
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + block


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    """What was asked, with the bytes of a body that went out."""

    method: str
    path: str
    start: int
    token: str | None
    storage: bool
    sent: int = 0


@dataclass
class Hub:
    """Repositories by name, and what goes wrong.

    Attributes:
        gated: repositories without access; breaks: for a file's name how many bytes each GET sends before it breaks off;
        always_break: the same for every GET; deaf: ignores Range; failures: answers to the next GETs of files;
        damage: sends another last byte than the checksum is of.
    """

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    breaks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    always_break: int | None = None
    deaf: bool = False
    damage: bool = False
    failures: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Hub:
        self._storage, self._front = _serve(self, storage=True), _serve(self, storage=False)
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._front, self._storage):
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._front.server_port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._storage.server_port}"

    def sent(self, name: str) -> int:
        """Bytes of a file that went out."""
        return sum(request.sent for request in self.gets(name))

    def gets(self, name: str) -> list[Request]:
        """The GETs of a file that brought bytes, in order."""
        return [one for one in self.requests if one.method == "GET" and one.path == name and one.sent]


def _serve(hub: Hub, *, storage: bool) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "storage": storage})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up, which is what some tests are about."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    storage: bool
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and not self.hub.deaf else 0
        request = Request(self.command, path, start, self.headers.get("Authorization"), self.storage)
        self.hub.requests.append(request)
        if self.storage:
            return self._file(request, path.removeprefix("/"), body)
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            return self._about(api[1])
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if resolve is None or resolve[1] not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound")
        repository, revision, name = resolve.groups()
        if repository in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if revision != COMMIT or name not in self.hub.repositories[repository]:
            return self._refuse(404, "EntryNotFound")
        data = self.hub.repositories[repository][name]
        if len(data) < LARGE:
            return self._file(request, f"{repository}/{name}", body)
        self.send_response(302)
        self.send_header("Location", f"{self.hub.storage}/{repository}/{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _about(self, repository: str) -> None:
        if repository not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound")
        names = [{"rfilename": name} for name in self.hub.repositories[repository]]
        text = json.dumps({"id": repository, "sha": COMMIT, "siblings": names}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, request: Request, path: str, body: bool) -> None:
        publisher, repository, name = path.split("/", 2)
        data = self.hub.repositories[f"{publisher}/{repository}"][name]
        request.path = name
        if body and self.hub.failures:
            return self._refuse(self.hub.failures.pop(0), "")
        self.send_response(206 if request.start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{git_digest(data)}"')
        self.send_header("Content-Length", str(len(data) - request.start))
        if request.start:
            self.send_header("Content-Range", f"bytes {request.start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        if self.hub.damage and len(data) >= LARGE:
            data = data[:-1] + bytes([data[-1] ^ 1])
        rest = data[request.start :]
        breaks = self.hub.breaks[name]
        limit = breaks.pop(0) if breaks else self.hub.always_break if len(data) >= LARGE else None
        if limit is None or limit >= len(rest):
            self.wfile.write(rest)
            request.sent = len(rest)
            return
        self.wfile.write(rest[:limit])
        self.wfile.flush()
        request.sent = limit
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
