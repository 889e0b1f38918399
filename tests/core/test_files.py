"""Files and folders of processes."""

import os
import subprocess
import sys

LOADER = """
from torch.utils.data import DataLoader
from explllm.core.files import use_short_socket_folder

use_short_socket_folder()
print([int(batch.sum()) for batch in DataLoader(range(6), batch_size=3, num_workers=1)])
"""


def test_workers_of_a_data_loader_with_a_long_tmpdir(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOADER],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "[3, 12]\n", done.stderr
