"""Peak memory of training steps compared with Hugging Face's: python benchmarks/train_memory.py.

Runs three steps of each job of train_step.py, each side in a process of its own, and subtracts the memory of the
imported libraries. What remains are weights, gradients, optimizer and activations. Linux only. MiB, medians with
quartiles.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from peer import our_model, peer_model
from results import save
from train_step import MIXTURES, batches, optimizer_of, step

STEPS = 3


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="processes for each job and side (default: 3)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="batch sizes (default: 8 16)")
    parser.add_argument("--job", nargs=3, metavar=("SIDE", "MIXTURE", "SIZE"), help="measure one job in this process")
    options = parser.parse_args()
    if options.job:
        side, mixture, size = options.job
        print(peak_of_steps(side, mixture, int(size)))
        return
    results: dict[str, dict[str, list[float]]] = {}
    for size in options.sizes:
        for mixture in MIXTURES:
            samples: dict[str, list[float]] = {"ours": [], "other": []}
            for _ in range(options.repeats):
                for side, values in samples.items():
                    command = [sys.executable, __file__, "--job", side, mixture, str(size)]
                    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                    values.append(float(printed.split()[-1]))
            results[f"{mixture}, batch {size}"] = samples
    save("train_memory", "Peak memory of a training step", "MiB", "Hugging Face", results)


def peak_of_steps(side: str, mixture: str, size: int) -> float:
    """Return the peak memory of training steps, without the imported libraries, in MiB."""
    libraries = status("VmRSS")
    tokenizes = our_model()
    inputs = batches(tokenizes, mixture, size, for_peer=side == "other")
    model = tokenizes if side == "ours" else peer_model()
    del tokenizes  # from the peer's process
    model.train()
    optimizer = optimizer_of(model)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    for _ in range(STEPS):
        step(model, optimizer, inputs)
    return status("VmHWM") - libraries


def status(field: str) -> float:
    """Return a field of this process's memory status, such as VmRSS, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


if __name__ == "__main__":
    main()
