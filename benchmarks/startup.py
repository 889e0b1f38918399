"""Time to the first step of training: python benchmarks/startup.py.

Runs `explllm fit` on the demo, whose faces are already drawn, and measures the time from the start of the process to
the end of the first optimizer step. The other side imports torch, transformers, lightning and peft, and does nothing
else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from lightning.pytorch import Callback
from results import save

IMPORTS = "import torch, transformers, lightning.pytorch, peft.tuners.lora"


class Clock(Callback):
    """Writes the time at the end of the first step. The clock is the same for all processes of a machine."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, *_: object) -> None:
        """Write the time."""
        Path(self.path).write_text(json.dumps(perf_counter()), encoding="utf-8")


def first_step(folder: Path, run: int) -> float:
    """Return the seconds until `fit` completes its first step."""
    start = perf_counter()
    command = [sys.executable, "-m", "explllm", "fit", "--config", "demo.yaml", "--run_dir", f"runs/{run}"]
    command += ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    callback = {"class_path": "startup.Clock", "init_args": {"path": str(folder / "seconds.json")}}
    command += ["--trainer.callbacks+", json.dumps(callback)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=_environment())
    return json.loads((folder / "seconds.json").read_text()) - start


def imports() -> float:
    """Return the seconds that a process takes to import the libraries."""
    start = perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, env=_environment())
    return perf_counter() - start


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs (default: 5)")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"ours": [], "other": []}
    with tempfile.TemporaryDirectory() as folder:
        first_step(Path(folder), 0)  # draws the faces
        for run in range(options.repeats):
            seconds["ours"].append(first_step(Path(folder), 1 + run))
            seconds["other"].append(imports())
    save("startup", "Start of training", "s", "imports alone", {"demo, first step": seconds})


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


if __name__ == "__main__":
    main()
