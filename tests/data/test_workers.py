"""Workers of data loaders with long temporary paths and under signals."""

import os
import signal
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader

from explllm.data.workers import outlive_first_signal

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
    loader = DataLoader(range(9), num_workers=1, worker_init_fn=outlive_first_signal, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    [worker] = batches._workers
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    assert [int(batch) for batch in batches] == [*range(1, 9)]
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(30)
    assert worker.exitcode == 0  # another code would be an error of the data loader
