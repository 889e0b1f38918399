"""An OpenAI-compatible server on loopback whose answers and faults are scripted.

Tests load it by the fixture ``chat_server``. It also runs as a process of its own, so that a client process can be
killed and started again against it:

    python tests/chat_server.py --port 0 --port-file PORT --log LOG --latency 0.05 --fault 429 --every 7

LOG holds one JSON object a line: ``{"event": "received", "number": ..., "key": ..., ...}`` when a request has come in
whole, and ``{"event": "answered", "number": ...}`` when a full answer, of status 200, has been sent.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass
class Received:
    """A request that has come in whole."""

    number: int
    """Counts the requests of ``POST /chat/completions`` from 1; 0 for any other."""
    method: str
    path: str
    headers: dict[str, str]
    """With names in lower case."""
    body: dict
    time: float
    """Of `time.monotonic`, in seconds."""
    answered: bool = False
    """Whether a full answer of status 200 was sent."""

    @property
    def key(self) -> str:
        """What the client calls the request."""
        return self.headers.get("x-client-request-id", "")

    @property
    def question(self) -> str:
        """The last message."""
        return self.body["messages"][-1]["content"]


@dataclass
class Reply:
    """What to answer."""

    text: str = ""
    """The model's answer; for another status than 200, the error's message."""
    status: int = 200
    delay: float = 0.0
    """Seconds to wait first."""
    until: Callable[[], bool] | None = None
    """Wait until this holds."""
    drop: bool = False
    """Close the connection without an answer."""
    cut: int | None = None
    """Send only so many bytes of the body, then close the connection."""
    headers: dict[str, str] = field(default_factory=dict)
    refusal: str | None = None
    finish_reason: str = "stop"
    usage: tuple[int, int] | None = (100, 20)
    """Tokens of prompt and answer; None to leave them out."""
    error: dict = field(default_factory=dict)
    """More fields of the error, such as ``code`` and ``param``."""
    raw: str | None = None
    """Send this as the body instead."""

    def body(self, model: str) -> str:
        """Build the body."""
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.text or "scripted fault", **self.error}})
        message = {"role": "assistant", "content": None if self.refusal else self.text, "refusal": self.refusal}
        answer = {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
        }
        if self.usage is not None:
            prompt, completion = self.usage
            counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            answer["usage"] = counts
        return json.dumps(answer)


Script = Callable[[Received], Reply]


def echo(received: Received) -> Reply:
    """Answer with the question."""
    return Reply(f"answer to: {received.question}")


def with_fault(script: Script, fault: Reply, every: int) -> Script:
    """Answer each so-many-th request with a fault."""

    def scripted(received: Received) -> Reply:
        reply = script(received)
        if received.number % every == 0:
            return fault
        return reply

    return scripted


class ChatServer:
    """The server, in a thread of its own; a context manager."""

    def __init__(
        self,
        script: Script = echo,
        *,
        models: Reply | tuple[str, ...] = ("scripted",),
        port: int = 0,
        log: Path | None = None,
    ):
        """Prepare a server.

        Args:
            script: Gives the answer to each request.
            models: What ``GET /models`` lists, or a reply to it, such as one of status 404.
            port: Where to listen; 0 for any free port.
            log: File to write.
        """
        self.script = script
        self.models = models
        self.port = port
        self.received: list[Received] = []
        """Every request of ``POST /chat/completions``, in order."""
        self.others: list[Received] = []
        """Every other request."""
        self.in_flight = 0
        self.most_in_flight = 0
        self._log = None if log is None else log.open("a", encoding="utf-8")
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chat server", daemon=True)

    @property
    def url(self) -> str:
        """What a client's ``base_url`` is."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def answered(self) -> int:
        """Requests that were answered in full, with status 200."""
        return sum(received.answered for received in self.received)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(600)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        if self._log is not None:
            self._log.close()

    def wait_for(self, condition, seconds: float = 600.0) -> None:
        """Wait until something holds of this server."""
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, f"{len(self.received)} received, {self.answered} answered"
            time.sleep(0.01)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                received = await self._receive(reader)
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    if not await self._answer(received, writer):
                        break
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            # Without waiting: the loop may be ending.
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        asks = method == "POST" and path.endswith("/chat/completions")
        received = Received(
            number=len(self.received) + 1 if asks else 0,
            method=method,
            path=path,
            headers=headers,
            body=json.loads(content) if content else {},
            time=time.monotonic(),
        )
        (self.received if asks else self.others).append(received)
        if asks:
            self._note(event="received", number=received.number, key=received.key, question=received.question)
        return received

    async def _answer(self, received: Received, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        if received.number:
            reply = self.script(received)
        elif isinstance(self.models, Reply):
            reply = self.models
        else:
            listed = [{"id": name, "object": "model", "owned_by": "test"} for name in self.models]
            reply = Reply(raw=json.dumps({"object": "list", "data": listed}))
        while reply.until is not None and not reply.until():
            await asyncio.sleep(0.01)
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.drop:
            return False
        body = reply.body(received.body.get("model", "")).encode("utf-8", "surrogateescape")
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Other')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body[: reply.cut])
        await writer.drain()
        if reply.cut is not None:
            return False
        if reply.status == 200:
            received.answered = True
            self._note(event="answered", number=received.number)
        return True

    def _note(self, **values) -> None:
        if self._log is not None:
            self._log.write(json.dumps(values) + "\n")
            self._log.flush()


def read_log(path: Path) -> tuple[list[dict], set[int]]:
    """Read a log: the requests received, and the numbers of those answered in full."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    received = [entry for entry in entries if entry["event"] == "received"]
    return received, {entry["number"] for entry in entries if entry["event"] == "answered"}


def _script(place: str) -> Script:
    """Load ``FILE.py:FUNCTION``."""
    file, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location("chat_script", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible server on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, help="written when the server listens; holds the port")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--models", nargs="*", default=["scripted"])
    parser.add_argument("--script", help="FILE.py:FUNCTION, from Received to Reply or to the answer's text")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--fault", help="a status, such as 429 or 500; drop; or cut")
    parser.add_argument("--every", type=int, default=10, help="each so-many-th request meets the fault")
    parser.add_argument("--retry-after", help="the header of that name, sent with the fault")
    arguments = parser.parse_args()

    inner = _script(arguments.script) if arguments.script else echo

    def script(received: Received) -> Reply:
        reply = inner(received)
        # A script in a file of its own has no Reply to make.
        reply = Reply(reply) if isinstance(reply, str) else reply
        reply.delay += arguments.latency
        return reply

    if arguments.fault:
        fault = Reply(drop=arguments.fault == "drop", cut=20 if arguments.fault == "cut" else None)
        if arguments.fault.isdigit():
            fault.status = int(arguments.fault)
        if arguments.retry_after:
            fault.headers["Retry-After"] = arguments.retry_after
        script = with_fault(script, fault, arguments.every)
    with ChatServer(script, models=tuple(arguments.models), port=arguments.port, log=arguments.log) as server:
        if arguments.port_file:
            partial = arguments.port_file.with_suffix(".partial")
            partial.write_text(str(server.port))
            partial.rename(arguments.port_file)
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
