"""The server under load, with garbage among the requests: python benchmarks/serve.py --model runs/demo/model.

Clients send pictures of drawn faces to `/v1/chat/completions` and compare each answer with the model's own answer to
that picture. 5% of the requests are garbage: truncated base64, huge bodies, wrong types, slow clients, closed sockets.
Prints counts, wrong answers, the throughput beside `recognize_and_explain` in batches, and the memory over time.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil

KINDS = ("truncated base64", "huge body", "wrong types", "slow client", "closed socket")
TIMEOUT = 300


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained model; by default a tiny one with random weights")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--garbage", type=float, default=0.05, help="share of garbage (default: 0.05)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--faces", type=int, default=32, help="different faces (default: 32)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> int:
    """Compute the expected answers, start the server, and send the requests."""
    from explllm import ExpLLM
    from explllm.drawn_faces import draw_faces
    from explllm.models.build import NetworkSettings, build

    path = options.model
    if path is None:
        path = str(folder / "model")
        build(NetworkSettings(preset="tiny", labels="rafdb")).save_pretrained(path)
    draw_faces(folder / "faces", train=0, val=0, test=options.faces, size=128)
    faces = [file.read_bytes() for file in sorted((folder / "faces").rglob("*.png"))]
    model = ExpLLM.from_pretrained(path)
    model.recognize_and_explain(faces[:2], options.max_new_tokens)
    started = time.perf_counter()
    answers = model.recognize_and_explain(faces * 2, options.max_new_tokens, options.batch_size)
    direct = 2 * len(faces) / (time.perf_counter() - started)
    del model
    probabilities = [[*recognition.probabilities.values()] for recognition, _ in answers[: len(faces)]]
    texts = [cot.text for _, cot in answers[: len(faces)]]
    if len({tuple(row) for row in probabilities}) < len(faces):
        raise SystemExit("two faces have the same probabilities: mixed answers would not be noticed")
    command = [sys.executable, "-m", "explllm", "serve", "--model", path, "--port", "0", "--name", "m"]
    command += ["--batch_size", str(options.batch_size), "--max_new_tokens", str(options.max_new_tokens)]
    with (folder / "log").open("w+") as log, subprocess.Popen(command, stderr=log, stdout=log) as server:
        try:
            address = wait_for_server(folder / "log", server)
            result = load(address, faces, probabilities, texts, options, psutil.Process(server.pid))
            alive = server.poll() is None
        finally:
            server.terminate()
            server.wait(30)
    counts, rate, memory = result
    print(f"{os.cpu_count()} cores, {options.clients} clients, batches of {options.batch_size}")
    for name, count in sorted(counts.items()):
        print(f"{count:8,}  {name}")
    print(f"throughput {rate:.2f} answers/s, model called directly {direct:.2f} faces/s: {rate / direct:.2f} x")
    tenth = max(1, len(memory) // 10)
    print(f"memory in MB: after a tenth {memory[tenth]:.0f}, at the end {memory[-1]:.0f}, maximum {max(memory):.0f}")
    wrong = sum(count for name, count in counts.items() if name.startswith("WRONG"))
    return int(wrong > 0 or not alive)


def wait_for_server(log: Path, server: subprocess.Popen) -> tuple[str, int]:
    """Return the address that the server prints."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        if match := re.search(r"running on (http://\S+)", log.read_text()):
            parts = urlsplit(match[1])
            return str(parts.hostname), int(parts.port or 0)
        time.sleep(0.1)
    raise SystemExit(f"the server did not start: {log.read_text()[-2000:]}")


def load(address, faces, probabilities, texts, options, process):
    bodies = [body_of(face) for face in faces]
    every = round(1 / options.garbage) if options.garbage else 0
    counts: collections.Counter[str] = collections.Counter()
    memory: list[float] = []
    lock, finished = threading.Lock(), threading.Event()

    def watch():
        while not finished.wait(0.5):
            memory.append(process.memory_info().rss / 2**20)

    def one(number):
        if every and number % every == every - 1:
            kind = KINDS[number // every % len(KINDS)]
            name = f"garbage, {kind}: {garbage(kind, address, bodies[number % len(bodies)])}"
        else:
            face = number % len(faces)
            name = answered(address, bodies[face], probabilities[face], texts[face])
        with lock:
            counts[name] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(one, range(options.requests)))
    seconds = time.perf_counter() - started
    memory.append(process.memory_info().rss / 2**20)
    finished.set()
    watcher.join()
    return counts, counts["right answers"] / seconds, memory


def body_of(face: bytes) -> bytes:
    """Return a request about a face that asks for JSON."""
    url = f"data:image/png;base64,{base64.b64encode(face).decode()}"
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    return json.dumps({"model": "m", "messages": messages, "response_format": {"type": "json_object"}}).encode()


def post(address: tuple[str, int], body: bytes) -> tuple[int, bytes]:
    """Send a body."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answered(address, body, probabilities, text):
    try:
        status, content = post(address, body)
    except OSError as error:
        return f"WRONG: no answer ({type(error).__name__})"
    if status != 200:
        return f"WRONG: status {status}"
    record = json.loads(json.loads(content)["choices"][0]["message"]["content"])
    near = all(abs(a - b) < 1e-4 for a, b in zip(record["probabilities"].values(), probabilities, strict=True))
    return "right answers" if near and record["text"] == text else "WRONG: the answer of another picture"


def garbage(kind: str, address: tuple[str, int], body: bytes) -> str:
    """Send garbage; return the status, or how the connection ended."""
    try:
        if kind == "truncated base64":
            return str(post(address, body.replace(b'"}}', b'%"}}', 1)[: len(body) // 2] + b'"}}]}]}')[0])
        if kind == "wrong types":
            return str(post(address, b'{"model": [], "messages": {"image_url": 3}, "stream": "perhaps"}')[0])
        with socket.create_connection(address, timeout=TIMEOUT) as connection:
            length = 100 * 2**20 if kind == "huge body" else len(body)
            connection.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            if kind == "closed socket":
                connection.sendall(body)
                return "closed"
            if kind == "slow client":
                for place in range(0, len(body), len(body) // 20 + 1):
                    connection.sendall(body[place : place + len(body) // 20 + 1])
                    time.sleep(0.05)
            else:
                for _ in range(100):
                    connection.sendall(bytes(2**20))
            return connection.recv(100).split()[1].decode()
    except OSError:
        return "connection closed by the server"


if __name__ == "__main__":
    sys.exit(main())
