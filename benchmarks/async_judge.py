"""Cost of judging explanations during training: python benchmarks/async_judge.py [--epochs 3] [--pairs 2].

Trains the demo alternately without and with `AsyncJudge`, each time in a new process. The judge is a server on loopback
that answers after 2 s; it judges 8 faces after each validation. Most of the cost comes from generating the faces'
explanations in the training loop. The script prints medians of three times: of training (``fit/seconds`` in
metrics.json), of the whole command including the wait for the last answers, and CPU time, which other processes on the
machine affect less. Because runs differ by more than the judge costs, it also prints the time spent in the callback's
hooks, measured by Lightning's profiler.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from host import environment, scripted_server

ANSWER = """
def answer(received):
    return '{"key_observations": 3, "overall_emotional_interpretation": 3, "conclusion": 5}'
"""
TIMES = ("training", "command", "cpu")


def fit(folder: Path, *options: str) -> dict[str, float]:
    """Train the demo once.

    Args:
        folder: The run folder; the drawn faces are stored next to it.
        *options: Further options of ``explllm fit``.

    Returns:
        The seconds of each of `TIMES`.
    """
    command = [sys.executable, "-m", "explllm", "fit", "--config", "demo.yaml", "--run_dir", str(folder)]
    command += ["--data.folder", str(folder.parent / "drawn"), "--trainer.enable_progress_bar", "false", *options]
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OPENAI_API_KEY": "-"}
    )
    errors = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    total = time.monotonic() - start
    if status or "judge" in errors:
        raise SystemExit(f"explllm fit failed: {errors}")
    training = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["fit/seconds"]
    return {"training": training, "command": total, "cpu": usage.ru_utime + usage.ru_stime}


def measure(folder: Path, url: str, epochs: int, pairs: int, faces: int) -> dict[str, list[dict[str, float]]]:
    """Train alternately without and with the judge; return the seconds of each run."""
    fit(folder / "warm", "--trainer.limit_train_batches", "4", "--trainer.max_epochs", "1")
    judge = {"judge": "scripted", "faces": faces, "chat": {"base_url": url}}
    callbacks = json.dumps([{"class_path": "AsyncJudge", "init_args": judge}])
    times: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for pair in range(pairs):
        # Every second pair runs in reverse order, which cancels slow changes in the machine's load.
        for kind in ("without", "with") if pair % 2 == 0 else ("with", "without"):
            options = ["--trainer.max_epochs", str(epochs)]
            options += ["--trainer.callbacks", callbacks] if kind == "with" else []
            profile = folder / f"{kind}{pair}-profile"
            options += ["--trainer.profiler", json.dumps(_profiler(profile))]
            times[kind].append(fit(folder / f"{kind}{pair}", *options))
            if kind == "with":
                times[kind][-1] |= _hooks(profile)
                lines = (folder / f"with{pair}" / "judge.jsonl").read_text(encoding="utf-8").splitlines()
                if sum("score" in json.loads(line) for line in lines) != epochs * faces:
                    raise SystemExit(f"expected {epochs * faces} judgments with a score, got {len(lines)} judgments")
            summary = ", ".join(f"{name} {value:.1f} s" for name, value in times[kind][-1].items())
            print(f"{kind:8} {summary}", file=sys.stderr, flush=True)
    return times


def _profiler(folder: Path) -> dict[str, object]:
    return {"class_path": "SimpleProfiler", "init_args": {"dirpath": str(folder), "filename": "fit", "extended": True}}


def _hooks(folder: Path) -> dict[str, float]:
    """Return the seconds spent in the judge's hooks during training and in the final wait."""
    [report] = folder.glob("fit*")
    seconds = {}
    for line in report.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 5 and "AsyncJudge" in cells[1]:
            seconds[cells[1].rpartition(".")[2]] = float(cells[4])
    # Training has ended before on_fit_end, which waits for the last answers.
    return {"hooks": sum(seconds.values()) - seconds["on_fit_end"], "drain": seconds["on_fit_end"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run (default: 3, as in the demo)")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds per answer")
    options = parser.parse_args()
    print(f"\n{environment()}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "judge.py").write_text(ANSWER, encoding="utf-8")
        with scripted_server(folder, f"{folder / 'judge.py'}:answer", options.latency) as url:
            times = measure(folder, url, options.epochs, options.pairs, options.faces)
    print(f"| median of {options.pairs} | without, s | with, s | ratio |\n|---|---|---|---|")
    for name in TIMES:
        without, judged = (median(run[name] for run in times[kind]) for kind in ("without", "with"))
        print(f"| {name} | {without:.1f} | {judged:.1f} | {judged / without:.3f} |")
    hooks, drain, training = (median(run[name] for run in times["with"]) for name in ("hooks", "drain", "training"))
    print(
        f"\nin the judge's hooks during training: {hooks:.2f} s of {training:.1f} s, a factor of "
        f"{training / (training - hooks):.3f}; waiting for the last answers: {drain:.1f} s"
    )


if __name__ == "__main__":
    main()
