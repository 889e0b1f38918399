"""CPU limits of containers, and the settings that OpenMP reads when torch is imported."""

import os
import subprocess
import sys

import pytest

from explllm.core.cpu import available_cpus


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_container_limits_the_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert available_cpus(tmp_path) == min(allowed, cores or allowed)


def run(code, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_idle_threads_sleep_unless_told_otherwise():
    names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"
    show = f"import os; print(*[os.environ.get(name) for name in {names}])"
    assert run(f"import explllm; {show}") == ["PASSIVE", "2000", "0"]
    assert run(f"import explllm; {show}", OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "None", "0"]
    assert run(f"import explllm; {show}", GOMP_SPINCOUNT="7") == ["PASSIVE", "7", "0"]


def test_torch_sees_them():
    code = (
        "import os, sys\n"
        "def hook(event, details):\n"
        "    if event == 'import' and details[0] == 'torch':\n"
        "        print(os.environ.get('OMP_WAIT_POLICY'), flush=True)\n"
        "        os._exit(0)\n"  # the rest of the imports takes seconds
        "sys.addaudithook(hook)\n"
        "from explllm import ExpLLM\n"
    )
    assert run(code) == ["PASSIVE"]
