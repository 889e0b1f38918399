"""The environment of a measurement: host, library versions and commit, and a scripted model server."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path


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
    """Run the tests' chat server with ``FILE:FUNCTION`` as its model, and yield its URL; `folder` holds its port."""
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
