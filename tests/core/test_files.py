"""Files and folders of processes."""

import os
import subprocess
import sys

import pytest

LOADER = """
import multiprocessing.util
import sys
from torch.utils.data import DataLoader
from explllm.core.files import use_short_socket_folder

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
