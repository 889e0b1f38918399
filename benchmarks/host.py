"""What a figure was measured on: host, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def host() -> str:
    """Return one line: processor, cores, Python, the libraries' versions, and the commit (marked if files differ)."""
    repository = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lightning", "peft"))
    changed = " with changes" if git("status", "--porcelain") else ""
    commit = f"commit {git('rev-parse', '--short', 'HEAD')}{changed}"
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}, {commit}"
