"""Speed and memory of the Exp-CoT Engine: python benchmarks/engine.py [--rows 1000] [--memory].

A server on loopback answers every request after a fixed latency; the ideal time is calls x latency / concurrency. The
server and its rule-based model run in a separate process. With --memory, the benchmark instead compares the peak
memory of builds of 1,000 and of 20,000 faces.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pandas as pd
from host import environment, scripted_server

from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.llm.ledger import Ledger

TESTS = Path(__file__).resolve().parents[1] / "tests"


def write_faces(path: Path, count: int) -> None:
    """Write a manifest of faces with random action units; the scripted model's first guess is wrong for one in ten."""
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


def build(folder: Path, rows: int, concurrency: int, latency: float) -> dict[str, float]:
    """Build chains of thought of random faces in a new process; return its calls, seconds, CPU seconds and memory."""
    write_faces(folder / "faces.parquet", rows)
    with scripted_server(folder, f"{TESTS / 'engine' / 'model_script.py'}:answer", latency) as url:
        command = ["cot", "build", str(folder / "faces.parquet"), "-o", str(folder / "out.parquet")]
        command += ["--model", "scripted", "--base-url", url, "--concurrency", str(concurrency)]
        process = subprocess.Popen(
            [sys.executable, "-m", "explllm", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENAI_API_KEY": "none"},
        )
        output = process.stdout.read() if process.stdout else ""
        _, _, usage = os.wait4(process.pid, 0)
    seconds = re.search(r"([0-9.]+) s; wrote", output)
    if seconds is None:
        raise SystemExit(f"the build printed: {output}")
    with Ledger(folder / "out.run" / "ledger.sqlite") as ledger:
        calls = ledger.totals().requests
    return {
        "calls": calls,
        "seconds": float(seconds[1]),
        "cpu": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.5, 0.1], help="seconds, one build for each")
    parser.add_argument("--memory", action="store_true", help="compare the memory of 1,000 and of 20,000 faces")
    options = parser.parse_args()
    print(f"\n{environment()}, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        if options.memory:
            print("| faces | calls | peak memory, MB |\n|---|---|---|")
            for rows in (1000, 20_000):
                folder = Path(temporary, str(rows))
                folder.mkdir()
                result = build(folder, rows, options.concurrency, 0.0)
                print(f"| {rows:,} | {result['calls']:,.0f} | {result['megabytes']:.0f} |", flush=True)
            return
        print("| faces | calls | concurrency | latency, ms | ideal, s | wall, s | ratio | CPU, s | memory, MB |")
        print("|---|---|---|---|---|---|---|---|---|")
        for latency in options.latency:
            folder = Path(temporary, str(latency))
            folder.mkdir()
            result = build(folder, options.rows, options.concurrency, latency)
            ideal = result["calls"] * latency / options.concurrency
            cells = (
                f"{options.rows:,}",
                f"{result['calls']:,.0f}",
                options.concurrency,
                f"{latency * 1000:.0f}",
                f"{ideal:.1f}",
                f"{result['seconds']:.1f}",
                f"{result['seconds'] / ideal:.2f}",
                f"{result['cpu']:.1f}",
                f"{result['megabytes']:.0f}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
