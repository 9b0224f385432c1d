"""A real ComfyUI server of its own: `main.py --cpu` in a child process, with our pack and no network.

Neither `import server` nor `tests.host.server` reaches this file everywhere (the host has top-level names `server` and
`tests` too): take the fixture `start_server` of tests/conftest.py, which loads it by its path.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK_FOLDER = "text-retouch"
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}

# An audit hook sees every connection and look-up of the interpreter, also those of compiled modules that use `socket`.
GUARD = """
import os
import sys

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


def _local(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host in (None, "", "::") or str(host).startswith(_LOCAL)


def _guard(event, args):
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    else:
        return
    if not _local(host):
        with open(os.environ["RETOUCH_REFUSED"], "a", encoding="utf-8") as log:
            log.write(f"{event} {host}\\n")
        raise OSError(f"the test refuses {event} to {host}")


sys.addaudithook(_guard)
"""


class ServerError(RuntimeError):
    """The server did not start, or answered with an error; the message holds what it said."""


@dataclass
class Run:
    """What became of one queued prompt."""

    id: str
    status: str = "queued"  # success, error, interrupted
    cached: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def text(self, node: str) -> str:
        """What the host's PreviewAny (or a node's own preview text) shows."""
        return "\n".join(str(part) for part in self.outputs[node]["text"])


class Server:
    """A running host: its HTTP interface, and every message of its websocket in `messages`."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.client = uuid.uuid4().hex
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._heard = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None

    # -------- HTTP
    def request(self, path: str, data: Any = None, timeout: float = 60.0) -> bytes:
        """GET, or POST of JSON where there is `data`; ServerError with the body for any status but 2xx."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": "application/json"} if body else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as refusal:
            raise ServerError(f"{path}: {refusal.code} {refusal.read().decode(errors='replace')}") from None

    def json(self, path: str, data: Any = None) -> Any:
        """The same, parsed."""
        return json.loads(self.request(path, data))

    def object_info(self) -> dict[str, Any]:
        """What the host tells its frontend about every node."""
        return dict(self.json("/object_info"))

    def history(self, prompt_id: str = "") -> dict[str, Any]:
        """All runs, or one; keys are prompt ids."""
        return dict(self.json(f"/history/{prompt_id}" if prompt_id else "/history"))

    def interrupt(self) -> None:
        """Cancel what runs now."""
        self.request("/interrupt", {})

    def free(self, unload_models: bool = True, free_memory: bool = True) -> None:
        """What "Unload models" does; asked thrice, since the host may miss it while it tidies up after a run."""
        for _ in range(3):
            time.sleep(0.7)
            self.request("/free", {"unload_models": unload_models, "free_memory": free_memory})
        time.sleep(0.7)

    def picture(self, image: dict[str, str]) -> Path:
        """The file of one entry of a node's `images`."""
        return self.folder / image["type"] / image["subfolder"] / image["filename"]

    def log(self) -> str:
        """Everything that the host has written."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    def refused(self) -> list[str]:
        """Connections and look-ups that were attempted to anywhere but this machine."""
        file = self.folder / "refused.log"
        return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []

    # -------- running
    def post(self, prompt: dict[str, Any]) -> Run:
        """Queue a prompt in API format; ServerError where the host finds any of it invalid."""
        answer = self.json("/prompt", {"prompt": prompt, "client_id": self.client})
        if answer.get("node_errors"):  # it would leave out what hangs on those nodes, and run the rest
            raise ServerError(f"/prompt: {json.dumps(answer['node_errors'])}")
        return Run(answer["prompt_id"])

    def wait(self, run: Run, timeout: float = 300.0) -> Run:
        """Wait until the run has ended, and fill in what happened."""
        start = time.monotonic()
        ends = {
            "execution_success": "success",
            "execution_error": "error",
            "execution_interrupted": "interrupted",
        }
        last = self.wait_for(lambda m: m["type"] in ends and m["data"].get("prompt_id") == run.id, timeout)
        run.status = ends[last["type"]]
        run.seconds = time.monotonic() - start
        for message in list(self.messages):
            data = message["data"]
            if data.get("prompt_id") != run.id:
                continue
            if message["type"] == "execution_cached":
                run.cached = list(data["nodes"])
            elif message["type"] == "executing" and data.get("node"):
                run.executed.append(data["node"])
            elif message["type"] == "executed":
                run.outputs[data["node"]] = data["output"] or {}
            elif message["type"] == "execution_error":
                run.error = data
        deadline = time.monotonic() + 10
        while run.status == "success" and run.id not in (entry := self.history(run.id)):
            # The history is written just after the last message.
            if time.monotonic() > deadline:
                raise ServerError(f"run {run.id} ended but has no history")
            time.sleep(0.05)
        if run.status == "success":
            run.outputs.update(entry[run.id]["outputs"])
        return run

    def queue(self, prompt: dict[str, Any], timeout: float = 300.0) -> Run:
        """Queue and wait."""
        return self.wait(self.post(prompt), timeout)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 60.0) -> dict[str, Any]:
        """The first message, past or coming, that is `wanted`; ServerError where none comes."""
        deadline = time.monotonic() + timeout
        read = 0
        with self._heard:
            while True:
                for message in self.messages[read:]:
                    if wanted(message):
                        return message
                read = len(self.messages)
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    raise ServerError(f"waited {timeout:.0f} s; the log ends with\n{self.log()[-3000:]}")
                self._heard.wait(min(left, 1.0))

    # -------- websocket
    def _listen(self) -> None:
        """A thread that keeps every JSON message; aiohttp is one of the host's own requirements."""
        opened = threading.Event()

        async def listen() -> None:
            import aiohttp

            self._loop = asyncio.get_running_loop()
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{self.url}/ws?clientId={self.client}", max_msg_size=0) as stream,
            ):
                opened.set()
                async for message in stream:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        with self._heard:
                            self.messages.append(json.loads(message.data))
                            self.times.append(time.monotonic())
                            self._heard.notify_all()

        def run() -> None:
            try:
                asyncio.run(listen())
            except Exception as reason:
                # It ends with the server; whoever waits for a message is told by wait_for.
                self.messages.append({"type": "socket_closed", "data": {"reason": str(reason)}})

        threading.Thread(target=run, daemon=True).start()
        if not opened.wait(30):
            raise ServerError("the websocket did not open within 30 s")


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


EXAMPLE = "example.png"
"""The picture that comes with the host, which our graphs for photographs open."""


def lay_out(folder: Path, host: Path, pack: Path = ROOT) -> None:
    """The base directory of `host`: our pack as a link, its pictures and the host's own as input, and the guard for the child."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models", "guard"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    link = folder / "custom_nodes" / PACK_FOLDER
    if not link.exists():
        link.symlink_to(pack, target_is_directory=True)
    for source in (ROOT / "example_workflows", ROOT / "retouch_core" / "demo_pictures"):
        for picture in sorted(source.iterdir()):
            if picture.suffix in PICTURES:
                shutil.copy(picture, folder / "input" / picture.name)
    if (host / "input" / EXAMPLE).is_file():
        shutil.copy(host / "input" / EXAMPLE, folder / "input" / EXAMPLE)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")


@contextmanager
def start_server(
    host: Path, folder: Path, pack: Path = ROOT, options: tuple[str, ...] = (), timeout: float = 240.0
) -> Iterator[Server]:
    """Start the host of the work tree `host` in the base directory `folder`, and stop it at the end.

    Raises ServerError, with the end of its log, where it does not answer within `timeout` seconds.
    """
    lay_out(folder, host, pack)
    port = free_port()
    command = [
        *(sys.executable, str(host / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port)),
        *("--base-directory", str(folder), "--database-url", "sqlite:///:memory:"),
        *("--disable-api-nodes", "--disable-auto-launch"),
        *options,
    ]
    paths = [str(folder / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "RETOUCH_REFUSED": str(folder / "refused.log"),
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    server = Server(folder, port, process)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                server.request("/system_stats", timeout=5)
                break
            except (OSError, ServerError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"ComfyUI did not start; its log:\n{server.log()[-6000:]}") from None
                time.sleep(0.25)
        server._listen()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
