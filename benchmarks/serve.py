"""The server under load, with malformed requests among the others: python benchmarks/serve.py.

OpenAI's client sends pictures of drawn faces to `/v1/chat/completions`, and each answer is compared with the model's
own answer for that picture. Some requests ask for whole explanations, the others for the first tokens; one in four is
streamed. Garbage makes up 5%: truncated base64, 100 MB bodies, wrong types, slow clients, closed sockets. Prints
counts, wrong answers, the throughput compared with `recognize_and_explain` in batches for the same mix, and the memory
over time.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import openai
from host import Memory, environment, explllm_process

GARBAGE = {
    "truncated base64": "400",
    "100 MB body": "413",
    "100 MB body in chunks": "413",
    "wrong types": "400",
    "slow body": "200",
    "endless body": "408",
    "endless headers": "closed by the server",
    "closed in the body": "closed by the client",
    "closed before the answer": "closed by the client",
    "closed in the stream": "closed by the client",
}
"""Kinds of garbage, and how each must end: with a status, or with a connection closed by one side."""
TIMEOUT = 300
SHORT = 8
"""Maximum number of tokens of a short answer."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained model; by default the one that comes with explllm")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--full", type=float, default=0.2, help="share of whole explanations (default: 0.2)")
    parser.add_argument("--garbage", type=float, default=0.05, help="share of garbage (default: 0.05)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--faces", type=int, default=32, help="different faces (default: 32)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=160)
    parser.add_argument("--read_timeout", type=int, default=30, help="of the server, in seconds (default: 30)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> int:
    """Compute the expected answers, start the server, and send the requests."""
    from explllm import ExpLLM
    from explllm.app.protocol import heading
    from explllm.drawn_faces import draw_faces

    draw_faces(folder / "faces", train=0, val=0, test=options.faces, size=128)
    faces = [file.read_bytes() for file in sorted((folder / "faces").rglob("*.png"))]
    model = ExpLLM.from_pretrained(*([options.model] if options.model else []))

    def seconds_per_face() -> list[float]:
        """Return the model's own time per face in full batches, for whole and for short answers: medians of 5 runs."""
        times: list[list[float]] = [[], []]
        for _ in range(5):
            for tokens, runs in zip((options.max_new_tokens, SHORT), times, strict=True):
                started = time.perf_counter()
                model.recognize_and_explain(faces, tokens, options.batch_size)
                runs.append((time.perf_counter() - started) / len(faces))
        return [statistics.median(runs) for runs in times]

    answers = model.recognize_and_explain(faces, options.max_new_tokens, options.batch_size)
    expected = [([*one.probabilities.values()], heading(one), cot.text) for one, cot in answers]
    if len({tuple(probabilities) for probabilities, _, _ in expected}) < len(faces):
        raise SystemExit("two faces have the same probabilities: mixed answers would not be noticed")
    direct = [seconds_per_face()]
    command = ["serve", "--port", "0", "--name", "m", "--batch_size", str(options.batch_size)]
    command += ["--max_new_tokens", str(options.max_new_tokens), "--read_timeout", str(options.read_timeout)]
    command += ["--model", options.model] if options.model else []
    with explllm_process(folder, *command) as (server, address), Memory(server.pid) as memory:
        counts, seconds = Load(address, faces, expected, options).run()
        alive = server.poll() is None
    direct.append(seconds_per_face())
    print(environment())
    print(f"{options.clients} clients, batches of {options.batch_size}, load average {os.getloadavg()[1]:.1f}")
    for name, count in sorted(counts.items()):
        print(f"{count:8,}  {name}")
    print(f"{len(set(text for _, _, text in expected))} different texts for {len(faces)} faces")
    right = {kind: sum(counts[name] for name in counts if f"right, {kind}" in name) for kind in ("whole", "short")}
    rate = sum(right.values()) / seconds
    own = [sum(right.values()) / (right["whole"] * whole + right["short"] * short) for whole, short in direct]
    print(f"{seconds:.0f} s, {rate:.2f} answers/s; the model called directly in batches, for the same mix:")
    print(f"{own[0]:.2f}/s before, {own[1]:.2f}/s after: {rate / own[0]:.2f} x and {rate / own[1]:.2f} x")
    print(memory)
    wrong = sum(count for name, count in counts.items() if name.startswith("WRONG"))
    return int(wrong > 0 or not alive)


class Load:
    """Sends the requests and counts the answers."""

    def __init__(self, address, faces, expected, options):
        parts = urlsplit(address)
        self.address, self.options, self.expected = (parts.hostname, parts.port), options, expected
        self.urls = [f"data:image/png;base64,{base64.b64encode(face).decode()}" for face in faces]
        self.client = openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0, timeout=TIMEOUT)
        self.counts: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()

    def run(self):
        """Send all requests; return the counts by outcome, and the seconds until the last valid request ended."""
        every = round(1 / self.options.garbage) if self.options.garbage else 0
        started = time.perf_counter()
        with ThreadPoolExecutor(16) as rubbish:

            def one(number):
                if every and number % every == every - 1:
                    kind = list(GARBAGE)[number // every % len(GARBAGE)]
                    rubbish.submit(self.count, self.garbage, kind, number)
                else:
                    self.count(self.ask, number)

            with ThreadPoolExecutor(self.options.clients) as pool:
                list(pool.map(one, range(self.options.requests)))
            seconds = time.perf_counter() - started
        return self.counts, seconds

    def count(self, function, *arguments):
        """Call a function and count what it returns."""
        try:
            name = function(*arguments)
        except Exception as error:
            name = f"WRONG: {function.__name__} {arguments}: {type(error).__name__}: {error}"[:200]
        with self.lock:
            self.counts[name] += 1

    def request(self, number, cut=None, **more):
        """Return a request about a face; `cut` is the number of characters to keep of the picture's data URL."""
        part = {"type": "image_url", "image_url": {"url": self.urls[number % len(self.urls)][:cut]}}
        return {"model": "m", "messages": [{"role": "user", "content": [part]}], **more}

    def ask(self, number):
        """Ask about a face with OpenAI's client; return the kind of answer."""
        probabilities, heading, text = self.expected[number % len(self.urls)]
        full = int((number + 3) * self.options.full) > int((number + 2) * self.options.full)
        length = "whole" if full else "short"
        limits = {} if full else {"max_tokens": SHORT}
        if number // len(self.urls) % 4 == 3:
            chunks = self.client.chat.completions.create(**self.request(number, stream=True, **limits))
            content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            found, right = content.removeprefix(heading), content.startswith(heading)
            name = f"right, {length}, streamed"
        else:
            kind = {"type": "json_object"}
            answer = self.client.chat.completions.create(**self.request(number, response_format=kind, **limits))
            record = json.loads(answer.choices[0].message.content)
            pairs = zip(record["probabilities"].values(), probabilities, strict=True)
            found, right = record["text"], all(abs(one - other) < 1e-4 for one, other in pairs)
            name = f"right, {length}, JSON"
        found = found.rstrip("\N{REPLACEMENT CHARACTER}")
        right = right and (found == text if full else bool(found) and text.startswith(found))
        return name if right else f"WRONG: the answer of another picture ({name})"

    def garbage(self, kind, number):
        """Send garbage; return how the request ended."""
        ended = self.send_garbage(kind, number)
        right = ended == GARBAGE[kind]
        return f"{'garbage' if right else 'WRONG'}: {kind}: {ended}"

    def send_garbage(self, kind, number):
        """Send garbage; return the status, or which side closed the connection."""
        # Valid base64 never has 4 n + 1 digits.
        cut = len("data:image/png;base64,") + 1001 if kind == "truncated base64" else None
        body = json.dumps(self.request(number, cut, stream=kind == "closed in the stream")).encode()
        if kind == "wrong types":
            body = b'{"model": [], "messages": {"image_url": 3}, "stream": "perhaps"}'
        length = {"100 MB body": 100 * 2**20, "endless body": 1000}.get(kind, len(body))
        chunked = kind == "100 MB body in chunks"
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {length}\r\n\r\n"
        with socket.create_connection(self.address, timeout=TIMEOUT) as connection:
            if kind in ("endless body", "endless headers"):
                connection.sendall(head.encode() if kind == "endless body" else head[:-2].encode())
                return trickle(connection)
            connection.sendall(head.encode())
            if kind.startswith("100 MB"):
                part = bytes(2**20)
                for _ in range(100):
                    connection.sendall(b"100000\r\n" + part + b"\r\n" if chunked else part)
                connection.sendall(b"0\r\n\r\n" if chunked else b"")
                return status(connection)
            if kind == "slow body":
                step = len(body) // 20 + 1
                for place in range(0, len(body), step):
                    connection.sendall(body[place : place + step])
                    time.sleep(0.1)
                _, heading, text = self.expected[number % len(self.urls)]
                response = http.client.HTTPResponse(connection)
                response.begin()
                content = json.loads(response.read())["choices"][0]["message"]["content"]
                return str(response.status) if content == heading + text else "another answer"
            connection.sendall(body[: len(body) // 2] if kind == "closed in the body" else body)
            if kind == "closed in the stream":
                connection.recv(100)
            if kind.startswith("closed"):
                return "closed by the client"
            return status(connection)


def status(connection: socket.socket) -> str:
    """Return the status of the response."""
    try:
        return connection.recv(100).split()[1].decode()
    except (OSError, IndexError):
        return "closed by the server"


def trickle(connection: socket.socket) -> str:
    """Send a byte per second until the server answers or closes the connection; return how the request ended."""
    connection.settimeout(1)
    for _ in range(TIMEOUT):
        try:
            received = connection.recv(100)
            return received.split()[1].decode() if received else "closed by the server"
        except TimeoutError:
            try:
                connection.sendall(b"a")
            except OSError:
                return "closed by the server"
        except OSError:
            return "closed by the server"
    return "never closed"


if __name__ == "__main__":
    sys.exit(main())
