"""FEALLM and ExpLLM with the same data, steps and seeds: python benchmarks/feallm.py [--faces FOLDER].

Without a folder, both train on drawn faces and are tested on unseen identities. Each run is `explllm fit` with
`feallm_demo.yaml` or `feallm_faces.yaml`, and with all options that this script does not define, such as
`--trainer.max_epochs 2`; runs with the same seed differ only in `network.architecture`. Runs that are already complete
are not repeated. The script then runs `explllm bench fea` and prints the mean and the standard deviation over the seeds
as a Markdown table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from host import environment

METRICS = {
    "accuracy": ("expression", "accuracy"),
    "macro recall": ("expression", "macro_recall"),
    "AU F1, text": ("units_text", "mean_f1"),
    "AU F1, likelihood": ("units_likelihood", "mean_f1"),
    "reasoning parsed": ("reasoning", "parsed"),
    "grounding F1": ("reasoning", "grounding_f1"),
}


def explllm(log: Path, *arguments: object) -> None:
    """Run an `explllm` command and append its output to a log file."""
    with log.open("a") as stream:
        subprocess.run(
            [sys.executable, "-m", "explllm", *map(str, arguments)], stdout=stream, stderr=stream, check=True
        )


def main() -> None:
    """Train, test and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--faces", help="a folder of class subfolders with an action_units.csv (default: drawn faces)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sample", type=int, help="test faces; by default all")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/benchmark_feallm"), help="the parent of the run folders"
    )
    options, more = parser.parse_known_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    log = options.runs / "log.txt"
    fit: list[object] = ["fit", "--config", "feallm_faces.yaml" if options.faces else "feallm_demo.yaml"]
    fit += ["--data.root", options.faces] if options.faces else []
    fit += more
    models = []
    for seed in options.seeds:
        for name in ("feallm", "expllm"):
            run = options.runs / f"{name}-{seed}"
            if not (run / "model").is_dir():
                explllm(log, *fit, "--model.network.architecture", name, "--seed_everything", seed, "--run_dir", run)
            models.append(run)
    # `bench fea` reads a manifest, not a folder of faces.
    manifest = Path("data/drawn/manifest.parquet")
    if options.faces:
        from explllm.data.folder import read_folder
        from explllm.data.preparation import hold_out_split

        faces = read_folder(options.faces)
        # The thresholds are chosen on these rows. Models may have trained on them, because `fit` splits by seed.
        hold_out_split(faces.frame, "val", 0.1, 0)
        manifest = options.runs / "faces.parquet"
        faces.write(manifest)
    bench: list[object] = ["bench", "fea", manifest, *models, "-o", options.runs / "bench"]
    bench += ["--root", options.faces] if options.faces else []
    bench += ["--sample", options.sample] if options.sample else []
    explllm(log, *bench)
    report = json.loads((options.runs / "bench/bench.json").read_text())
    print(f"\n{environment()}\n\n{report['faces']} test faces, seeds {', '.join(map(str, options.seeds))}\n")
    print(f"| model | {' | '.join(METRICS)} |\n|---|{'---:|' * len(METRICS)}")
    for name in ("feallm", "expllm"):
        runs = [model for model in report["models"] if model["name"].startswith(name)]
        cells = []
        for part, metric in METRICS.values():
            values = [value for run in runs if (value := run.get(part, {}).get(metric)) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}" if len(values) == len(runs) else "-")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
