"""What a judge in the background costs a fit: python benchmarks/async_judge.py [--epochs 7] [--pairs 2].

The demo is trained without and with `AsyncJudge`, in turn, each in a process of its own. The judge is a server on
loopback that takes 2 s for an answer; it judges 8 faces after each validation. Their texts are written in the loop,
which is most of what the judge costs. Printed are medians: seconds of training (``fit/seconds`` in metrics.json), of
the whole command with the wait for the last answers, and of processor time, which other work on the machine changes
less; and, since both differ by more from run to run than the judge costs, the share of training that was spent in the
callback's own hooks, by Lightning's profiler.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

from host import host

SERVER = Path(__file__).resolve().parents[1] / "tests" / "chat_server.py"
ANSWER = """
def answer(received):
    return '{"key_observations": 3, "overall_emotional_interpretation": 3, "conclusion": 5}'
"""
FIGURES = ("training", "command", "processor")


def fit(folder: Path, *options: str) -> dict[str, float]:
    """Train the demo, and measure it.

    Args:
        folder: Where the run goes; the faces are drawn beside it once.
        *options: More options of ``explllm fit``.

    Returns:
        Seconds by `FIGURES`.
    """
    command = [sys.executable, "-m", "explllm", "fit", "--config", "demo.yaml", "--run_dir", str(folder)]
    command += ["--data.folder", str(folder.parent / "drawn"), "--trainer.enable_progress_bar", "false", *options]
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OPENAI_API_KEY": "-"}
    )
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.monotonic() - start
    if status or "judge" in said:
        raise SystemExit(f"the fit said: {said}")
    training = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["fit/seconds"]
    return {"training": training, "command": whole, "processor": usage.ru_utime + usage.ru_stime}


def measure(folder: Path, url: str, epochs: int, pairs: int, faces: int) -> dict[str, list[dict[str, float]]]:
    """Train without and with the judge in turn."""
    fit(folder / "warm", "--trainer.limit_train_batches", "4", "--trainer.max_epochs", "1")
    judge = {"judge": "scripted", "base_url": url, "faces": faces}
    callbacks = json.dumps([{"class_path": "AsyncJudge", "init_args": judge}])
    found: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for pair in range(pairs):
        # The other one first in every second pair: a machine that grows busier burdens both.
        for kind in ("without", "with") if pair % 2 == 0 else ("with", "without"):
            options = ["--trainer.max_epochs", str(epochs)]
            options += ["--trainer.callbacks", callbacks] if kind == "with" else []
            profile = folder / f"{kind}{pair}-profile"
            options += ["--trainer.profiler", json.dumps(_profiler(profile))]
            found[kind].append(fit(folder / f"{kind}{pair}", *options))
            if kind == "with":
                found[kind][-1] |= _hooks(profile)
                lines = (folder / f"with{pair}" / "judge.jsonl").read_text(encoding="utf-8").splitlines()
                if sum("score" in json.loads(line) for line in lines) != epochs * faces:
                    raise SystemExit(f"{len(lines)} judgments of {epochs * faces}, or not all with a score")
            shown = ", ".join(f"{name} {value:.1f} s" for name, value in found[kind][-1].items())
            print(f"{kind:8} {shown}", file=sys.stderr, flush=True)
    return found


def _profiler(folder: Path) -> dict[str, object]:
    return {"class_path": "SimpleProfiler", "init_args": {"dirpath": str(folder), "filename": "fit", "extended": True}}


def _hooks(folder: Path) -> dict[str, float]:
    """Return the seconds spent in the judge's hooks, while training and in all."""
    [report] = folder.glob("fit*")
    seconds = {}
    for line in report.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 5 and "AsyncJudge" in cells[1]:
            seconds[cells[1].rpartition(".")[2]] = float(cells[4])
    whole = sum(seconds.values())
    # The model is trained no more in on_fit_end: that is the wait for the last answers.
    return {"hooks": whole - seconds["on_fit_end"], "drain": seconds["on_fit_end"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=7, help="as many as the demo has: 7")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds for an answer")
    options = parser.parse_args()
    print(f"\n{date.today()}, {host()}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "judge.py").write_text(ANSWER, encoding="utf-8")
        port = folder / "port"
        server = subprocess.Popen(
            [
                *(sys.executable, str(SERVER), "--port-file", str(port), "--latency", str(options.latency)),
                *("--script", f"{folder / 'judge.py'}:answer"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not port.exists():
                time.sleep(0.01)
            url = f"http://127.0.0.1:{port.read_text()}/v1"
            found = measure(folder, url, options.epochs, options.pairs, options.faces)
        finally:
            server.kill()
    print(f"| median of {options.pairs} | without, s | with, s | ratio |\n|---|---|---|---|")
    for figure in FIGURES:
        without, judged = (median(run[figure] for run in found[kind]) for kind in ("without", "with"))
        print(f"| {figure} | {without:.1f} | {judged:.1f} | {judged / without:.3f} |")
    hooks, drain, training = (median(run[name] for run in found["with"]) for name in ("hooks", "drain", "training"))
    print(
        f"\nin the judge's hooks while training: {hooks:.2f} s of {training:.1f} s, a factor of "
        f"{training / (training - hooks):.3f}; waiting for the last answers at the end: {drain:.1f} s"
    )


if __name__ == "__main__":
    main()
