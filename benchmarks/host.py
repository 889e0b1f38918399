"""The environment of a measurement: host, versions and commit; a scripted model server; explllm as a process."""

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil


def environment(*libraries: str) -> str:
    """Return one line: date, processor, cores, Python, library versions and commit ("with changes" if dirty).

    Args:
        *libraries: Distributions to name besides torch, transformers, lightning and peft.
    """
    repository = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        if shutil.which("git") is None:
            return ""
        result = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=False)
        return result.stdout.strip()

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "lightning", "peft", *libraries)
    )
    changed = " with changes" if git("status", "--porcelain") else ""
    commit = f"commit {git('rev-parse', '--short', 'HEAD')}{changed}"
    cores = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{date.today()}, {model}, {cores}, {versions}, {commit}"


@contextmanager
def scripted_server(folder: Path, script: str, latency: float) -> Iterator[str]:
    """Run the tests' chat server with `script` (``FILE:FUNCTION``) as its model; yield its URL.

    `folder` receives a file with the server's port.
    """
    server = Path(__file__).resolve().parents[1] / "tests" / "chat_server.py"
    port = folder / "port"
    options = ["--port-file", str(port), "--script", script, "--latency", str(latency)]
    process = subprocess.Popen([sys.executable, str(server), *options], stdout=subprocess.DEVNULL)
    try:
        while not port.exists():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port.read_text()}/v1"
    finally:
        process.kill()


@contextmanager
def explllm_process(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run an ``explllm`` command that serves HTTP, and yield the process and its address; `folder` holds its log.

    Raises:
        SystemExit: If the command ends without printing an address.
    """
    path = folder / "log"
    with path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "explllm", *arguments], stderr=log, stdout=log)
    try:
        while not (match := re.search(r"(http://[\w.]+:\d+)", path.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {path.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process, match[1]
    finally:
        process.terminate()
        process.wait(60)


class Memory(threading.Thread):
    """Records the memory of a process, in MiB, every half second."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self.values: list[float] = []
        self._process, self._ended = psutil.Process(process), threading.Event()

    def run(self) -> None:
        """Record until the context exits."""
        while not self._ended.wait(0.5):
            self.values.append(self._process.memory_info().rss / 2**20)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    @property
    def flat(self) -> bool:
        """Whether the final memory is within 10% of the memory after a tenth of the time."""
        return abs(self.values[-1] / self.values[len(self.values) // 10] - 1) < 0.1

    def __str__(self) -> str:
        tenths = [self.values[len(self.values) * tenth // 10] for tenth in range(10)] + [self.values[-1]]
        return f"memory in MB, at each tenth of the time: {', '.join(f'{value:.0f}' for value in tenths)}"
