"""A small model on shared cores: python benchmarks/contention.py.

Explains 8 faces 10 times, recognizes them 50 times, and trains 10 steps, each in a separate process, on an idle machine
and next to a process that keeps one core busy. `explllm` uses the package's defaults; `torch alone` runs without the
settings of `explllm.core.cpu.configure_threads`. Without them, a job can be a hundred times slower next to a busy
process, so it is stopped after `--limit` seconds. Runs are interleaved; the results are medians in seconds.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import subprocess
import sys

from host import environment

JOBS = ("recognize", "explain", "train")
# Values set by the user would override the defaults.
UNSET = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_NUM_THREADS")


def job(name: str) -> None:
    """Run one job in this process and print its seconds."""
    import time

    if os.environ.get("EXPLLLM_BENCHMARK_DEFAULTS"):
        import torch  # before explllm, which then leaves the threads unchanged
    else:
        import explllm  # noqa: F401

    import numpy as np
    import torch

    from explllm.models.build import NetworkSettings, build
    from explllm.models.loss import LossSettings

    torch.manual_seed(0)
    model = build(NetworkSettings(preset="tiny", labels="rafdb"))
    faces = [np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8) for seed in range(8)]
    if name == "train":
        pixels = torch.stack([model.image(face) for face in faces]).repeat(2, 1, 1, 1)
        image = torch.full((16, model.config.image_tokens), model.config.image_token_id)
        ids = torch.cat([image, torch.randint(5, 900, (16, 100))], 1)
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < image.shape[1] + 50, -100)
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
        model.train()

        def step() -> None:
            model(pixels, ids, None, labels, training_loss=LossSettings()).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        work, repeats = step, 10
    elif name == "explain":
        work, repeats = lambda: model.explain(faces, max_new_tokens=64), 10
    else:
        work, repeats = lambda: model.recognize(faces), 50
    work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    print(time.perf_counter() - start)


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def measure(name: str, defaults: bool, limit: float) -> float:
    """Return the seconds of a job in a separate process, or infinity if it does not end within the limit."""
    environment = {key: value for key, value in os.environ.items() if key not in UNSET}
    if defaults:
        environment["EXPLLLM_BENCHMARK_DEFAULTS"] = "1"
    command = [sys.executable, __file__, "--job", name]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return math.inf
    return float(done.stdout.split()[-1])


def text_of(seconds: float, limit: float) -> str:
    """Format a duration for the table."""
    return f"{seconds:.2f}" if math.isfinite(seconds) else f"over {limit:.0f}"


def main() -> None:
    """Measure every job on an idle and on a busy machine, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--limit", type=float, default=60, help="seconds per process (default: 60)")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(options.job)
        return
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: the machine is not idle (load {load:.1f}); the idle column is too slow", file=sys.stderr)
    seconds: dict[tuple[str, bool, bool], list[float]] = {}
    for _ in range(options.repeats):
        for busy in (False, True):
            other = multiprocessing.Process(target=spin, daemon=True)
            if busy:
                other.start()
            for name in JOBS:
                for defaults in (True, False):
                    took = measure(name, defaults, options.limit)
                    seconds.setdefault((name, defaults, busy), []).append(took)
                    settings, machine = "torch alone" if defaults else "explllm", "busy" if busy else "idle"
                    print(f"{name}, {settings}, {machine}: {text_of(took, options.limit)} s", file=sys.stderr)
            if busy:
                other.kill()
                other.join()
    print(f"{environment()}, load before {load:.1f}, {options.repeats} repeats\n")
    print("| job | settings | idle, s | beside a busy process, s | busy / idle |")
    print("|---|---|---|---|---|")
    for name in JOBS:
        for defaults in (True, False):
            idle, busy = (statistics.median(seconds[name, defaults, load]) for load in (False, True))
            settings, ratio = "torch alone" if defaults else "explllm", f"{busy / idle:.1f}"
            cells = [name, settings, text_of(idle, options.limit), text_of(busy, options.limit), ratio]
            print(f"| {' | '.join(cells)} |")
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    slowdown = max(medians[name, False, True] / medians[name, False, False] for name in JOBS)
    cost = max(medians[name, False, False] / medians[name, True, False] for name in JOBS)
    print(f"\nexplllm: busy / idle at most {slowdown:.2f}; idle at most {cost:.2f} of torch alone")


if __name__ == "__main__":
    main()
