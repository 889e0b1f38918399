"""Workers of data loaders with long temporary paths and under signals."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from torch.utils.data import DataLoader

from explllm.data.workers import outliving_signals

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


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows")
def test_a_worker_outlives_the_signals_of_a_scheduler():
    init = outliving_signals()
    loader = DataLoader(range(9), num_workers=1, worker_init_fn=init, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    [worker] = batches._workers
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert [int(batch) for batch in batches] == [*range(1, 9)]
    assert worker.is_alive()


EXIT = """
import time
from torch.utils.data import DataLoader
from explllm.data.workers import outliving_signals

class Slow:
    def __len__(self):
        return 99

    def __getitem__(self, number):
        time.sleep(number)
        return number

batches = iter(DataLoader(Slow(), num_workers=2, worker_init_fn=outliving_signals(), persistent_workers=True))
print(*(worker.pid for worker in batches._workers), int(next(batches)), flush=True)
raise RuntimeError("the run failed")
"""


def test_workers_end_with_their_process():
    """Also when they are busy, and an exception keeps their loader alive."""
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: the run failed\n"), done.stderr
    *workers, first = done.stdout.split()
    assert first == "0" and not any(psutil.pid_exists(int(worker)) for worker in workers)
