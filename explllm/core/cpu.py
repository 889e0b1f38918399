"""CPU settings: how many cores this process may use, and how idle threads wait.

OpenMP threads spin while they wait. On a shared machine (a container, a CI runner, a laptop), the spinning threads of
one process take cores away from the working threads of another, and small models run up to 100 times slower.
`benchmarks/contention.py` measures this.
"""

import math
import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the number of cores that this process may use.

    It is the number of cores in the scheduler's affinity mask or the container's CPU quota (rounded up), whichever is
    smaller. `cgroup` is the mount point of control groups (version 1 or 2).
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota(cgroup) or cores))


def _quota(cgroup: Path) -> int | None:
    """Return the container's CPU quota in cores, rounded up, or None if it has no quota."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no control groups, or the quota `max`
        return None


def configure_threads() -> None:
    """Let idle OpenMP threads sleep after a few microseconds, and limit the threads to the container's cores.

    The function sets environment variables that the OpenMP runtimes read when torch is imported, so it has no effect
    afterwards. Variables that are already set are kept.
    """
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        # Threads that sleep immediately make small models 1.1 to 1.5 times slower on an idle machine. Threads that spin
        # briefly make them only 1.0 to 1.2 times slower, and still free the core for other processes.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Intel's and LLVM's runtimes (conda, macOS) use a separate variable.
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    quota = _quota(_CGROUP)
    if quota is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
