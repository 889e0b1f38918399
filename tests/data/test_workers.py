"""Workers of data loaders with long temporary paths and under signals."""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from explllm.data.workers import worker_options

LOADER = """
import multiprocessing.util
import sys
from torch.utils.data import DataLoader
from explllm.data.workers import use_short_socket_folder

if sys.argv[1:]:
    multiprocessing.util.get_temp_dir()  # as a manager of processes calls it
use_short_socket_folder()
print([int(batch.sum()) for batch in DataLoader(range(6), batch_size=3, num_workers=1)])
"""


@pytest.mark.parametrize("earlier", [[], ["used"]])
def test_workers_of_a_data_loader_with_a_long_tmpdir(tmp_path, earlier):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *earlier],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "[3, 12]\n", done.stderr


SIGNALS = """
import multiprocessing
import subprocess
import sys
import torch
from torch.utils.data import DataLoader
from explllm.data.workers import worker_options

if __name__ == "__main__":
    torch.set_num_threads(2)  # then torch starts a thread in each worker it forks
    multiprocessing.set_start_method(sys.argv[1])
    batches = iter(DataLoader(range(9), num_workers=1, persistent_workers=True, **worker_options(rank=0)))
    next(batches)
    [worker] = batches._workers
    for name in ("USR1", "TERM", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert [int(batch) for batch in batches] == [*range(1, 9)]
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    print(worker.exitcode)  # a code other than 0 would be an error of the data loader
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sigwaitinfo")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_outlives_the_signals_of_a_scheduler_but_not_of_its_process(tmp_path, method):
    script = tmp_path / "signals.py"
    script.write_text(SIGNALS)
    done = subprocess.run([sys.executable, script, method], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


def test_workers_have_seeds_of_their_own():
    """For augmentation of the user's own, which may draw from the global generators."""

    class Draws:
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return np.random.rand(), random.random(), float(torch.rand(()))

    def draws(rank):
        torch.manual_seed(0)  # each rank's loader starts from this seed
        loader = DataLoader(Draws(), num_workers=2, **worker_options(rank))
        return [tuple(map(float, draw)) for _ in range(2) for draw in loader]

    found = []
    for rank in (0, 1):
        found += draws(rank)
        assert draws(rank) == found[-4:]
    for generator in zip(*found, strict=True):
        assert len(set(generator)) == 8  # two ranks, two epochs, two workers


EXIT = """
import sys
import time
from multiprocessing import Process
from torch.utils.data import DataLoader
from explllm.data.workers import worker_options

class Slow:
    def __len__(self):
        return 99

    def __getitem__(self, number):
        time.sleep(number)
        return number

def run():
    batches = iter(DataLoader(Slow(), num_workers=2, persistent_workers=True, **worker_options(rank=0)))
    print(*(worker.pid for worker in batches._workers), int(next(batches)), flush=True)
    raise RuntimeError("the run failed")

if sys.argv[1:]:
    rank = Process(target=run)
    rank.start()
    rank.join()
    sys.exit(rank.exitcode)
run()
"""


@pytest.mark.parametrize("child", [[], ["child"]])
def test_workers_end_with_their_process(child):
    """Also when they are busy, an exception keeps their loader alive, or their process is a forked rank."""
    done = subprocess.run([sys.executable, "-c", EXIT, *child], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: the run failed\n"), done.stderr
    *workers, first = done.stdout.split()
    assert first == "0" and not any(psutil.pid_exists(int(worker)) for worker in workers)
