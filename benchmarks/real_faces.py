"""Accuracy on real faces, from random weights on a CPU: python benchmarks/real_faces.py FOLDER [VARIANT...].

Each variant changes a few settings of `configs/faces.yaml` and runs `explllm fit` and `explllm test`. The script prints
one row of a Markdown table per variant.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from host import environment

VARIANTS = {
    "mixture": [],
    # Takes as long as the mixture: an epoch contains each image once instead of four times, and no long text.
    "fer_only": ["--data.fer_share", "1", "--trainer.max_epochs", "80"],
}
"""Changes to faces.yaml by name."""


def main() -> None:
    """Train and test the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="a folder of class subfolders, in train and test")
    parser.add_argument("variants", nargs="*", help=f"any of {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--runs", default="runs", help="the parent of the run folders")
    options = parser.parse_args()
    print(f"\n{environment()}\n", flush=True)
    print("| variant | changes to faces.yaml | test accuracy | macro recall | fit, s | test, s |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.variants or VARIANTS:
        run = Path(options.runs, f"faces_{name}")
        arguments = ["--config", "faces.yaml", "--data.root", options.root, "--run_dir", str(run), *VARIANTS[name]]
        seconds = {}
        for stage in ("fit", "test"):
            start = time.monotonic()
            log = run.with_suffix(f".{stage}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as stream:
                subprocess.run(
                    [sys.executable, "-m", "explllm", stage, *arguments], stdout=stream, stderr=stream, check=True
                )
            seconds[stage] = time.monotonic() - start
        metrics = json.loads((run / "metrics.json").read_text())
        changes = " ".join(VARIANTS[name]) or "none"
        print(
            f"| {name} | {changes} | {metrics['test/accuracy']:.3f} | {metrics['test/macro_recall']:.3f} "
            f"| {seconds['fit']:.0f} | {seconds['test']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
