"""Speed and memory of the Exp-CoT Engine: python benchmarks/engine.py [--rows 1000] [--memory].

A server on loopback answers every request after 100 ms; the ideal is calls x 0.1 s / concurrency. The server and its
model of rules run in a process of their own, as a real one does. With --memory, the peak memory of builds of 1,000 and
of 20,000 faces is compared.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pandas as pd
from host import environment

from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.llm.ledger import Ledger

TESTS = Path(__file__).resolve().parents[1] / "tests"


def write_faces(path: Path, count: int) -> None:
    """Write a manifest of faces with random action units; the model misjudges one in ten at first."""
    place = TESTS / "engine" / "model_script.py"
    guess = SourceFileLoader("model_script", str(place)).load_module().guess
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        units = np.where(random.uniform(size=24) < 0.2, random.uniform(0.06, 0.9, 24).round(2), 0.0).tolist()
        label = guess(units)
        if number % 10 == 0:
            label = list(Expression)[(list(Expression).index(label) + 3) % 8]
        rows.append({"image": f"{number:06}.jpg", "expression": str(label), "action_units": units})
    Manifest(pd.DataFrame(rows), path.parent).write(path)


def build(folder: Path, rows: int, concurrency: int, script: str) -> dict[str, float]:
    """Build the chains of thought of so many faces, and measure it from outside."""
    write_faces(folder / "faces.parquet", rows)
    port = folder / "port"
    place = f"{TESTS / 'engine' / 'model_script.py'}:{script}"
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "chat_server.py"), "--port-file", str(port), "--script", place],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not port.exists():
            time.sleep(0.01)
        command = ["cot", "build", str(folder / "faces.parquet"), "-o", str(folder / "out.parquet")]
        command += ["--model", "scripted", "--base-url", f"http://127.0.0.1:{port.read_text()}/v1"]
        command += ["--concurrency", str(concurrency)]
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "explllm", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENAI_API_KEY": "none"},
        )
        said = process.stdout.read() if process.stdout else ""
        _, _, usage = os.wait4(process.pid, 0)
        whole = time.monotonic() - start
    finally:
        server.kill()
    seconds = re.search(r"([0-9.]+) s; wrote", said)
    if seconds is None:
        raise SystemExit(f"the build said: {said}")
    with Ledger(folder / "out.run" / "ledger.sqlite") as ledger:
        calls = ledger.totals().requests
    return {"calls": calls, "seconds": float(seconds[1]), "whole": whole, "megabytes": usage.ru_maxrss / 1024}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--memory", action="store_true", help="compare the memory of 1,000 and of 20,000 faces")
    options = parser.parse_args()
    print(f"\n{environment()}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            print("| faces | calls | peak memory, MB |\n|---|---|---|")
            for rows in (1000, 20_000):
                place = Path(folder, str(rows))
                place.mkdir()
                found = build(place, rows, options.concurrency, "answer")
                print(f"| {rows:,} | {found['calls']:,.0f} | {found['megabytes']:.0f} |", flush=True)
            return
        found = build(Path(folder), options.rows, options.concurrency, "slow")
        ideal = found["calls"] * 0.1 / options.concurrency
        print("| faces | calls | concurrency | ideal, s | wall, s | ratio | peak memory, MB |")
        print("|---|---|---|---|---|---|---|")
        cells = (
            f"{ideal:.1f}",
            f"{found['seconds']:.1f}",
            f"{found['seconds'] / ideal:.2f}",
            f"{found['megabytes']:.0f}",
        )
        print(f"| {options.rows:,} | {found['calls']:,.0f} | {options.concurrency} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
