"""Accuracy and grounding on real faces, from random weights on a CPU.

    python benchmarks/real_faces.py FOLDER [VARIANT...]

A variant is `configs/faces.yaml` with a few settings changed (`mixture`: none). For each variant, the script runs
`explllm fit` and `explllm test`, and prints one row of a Markdown table.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from host import environment

VARIANTS = {
    "mixture": [],
    # The same number of encoder steps: an epoch contains each image once instead of twice.
    "fer_only": ["--data.fer_share", "1", "--trainer.max_epochs", "76"],
    "no_mixup": ["--model.mixup", "0"],
    "estimates_only": ["--model.measured_units_share", "0"],
}
"""Changes to faces.yaml by variant."""

OPTIONS = {"fit": [], "test": ["--scored_faces", "1000000"]}
"""Further options by stage: all test faces are explained and scored."""


def main() -> None:
    """Train and test the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="a folder of class subfolders, in train and test")
    parser.add_argument("variants", nargs="*", help=f"any of {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--runs", default="runs", help="the parent of the run folders")
    options = parser.parse_args()
    print(f"\n{environment()}\n", flush=True)
    print("| variant | changes to faces.yaml | accuracy | macro recall ", end="")
    print(
        "| grounding gain (95%) | F1 | contradictions | fit, s | test, s |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name in options.variants or VARIANTS:
        run = Path(options.runs, f"faces_{name}")
        arguments = ["--config", "faces.yaml", "--data.root", options.root, "--run_dir", str(run), *VARIANTS[name]]
        seconds = {}
        for stage in OPTIONS:
            start = time.monotonic()
            log = run.with_suffix(f".{stage}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as stream:
                subprocess.run(
                    [sys.executable, "-m", "explllm", stage, *arguments, *OPTIONS[stage]],
                    stdout=stream,
                    stderr=stream,
                    check=True,
                )
            seconds[stage] = time.monotonic() - start
        metrics = json.loads((run / "metrics.json").read_text())
        changes = " ".join(VARIANTS[name]) or "none"
        print(
            f"| {name} | {changes} | {metrics['test/accuracy']:.3f} | {metrics['test/macro_recall']:.3f} "
            f"| {_grounding(metrics)} "
            f"| {seconds['fit']:.0f} | {seconds['test']:.0f} |",
            flush=True,
        )


def _grounding(metrics: dict[str, Any]) -> str:
    """Return the table cells about explanations: grounding gain with its interval, F1, share of self-contradictions."""
    names = ("grounding_gain", "grounding_f1", "self_contradiction")
    gain, f1, contradictions = values = [metrics.get(f"test/cot/{name}") for name in names]
    if None in values:
        return "- | - | -"
    low, high = metrics["test/cot/grounding_gain_interval"]
    return f"{gain:.3f} ({low:.3f} to {high:.3f}) | {f1:.3f} | {contradictions:.3f}"


if __name__ == "__main__":
    main()
