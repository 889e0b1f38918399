"""Worker processes of data loaders, on clusters: long temporary paths, and signals to all processes of a job."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from functools import partial
from multiprocessing import context, current_process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any


def use_short_socket_folder() -> None:
    """Keep the sockets of worker processes in the system's folder if the path in ``TMPDIR`` is too long for a socket.

    Some clusters set such a path. The workers of a data loader would fail to send their batches, and the loader would
    wait forever. Newer releases of Python do the same themselves.
    """
    longest = 103 - len("/pymp-12345678/listener-12345678")  # bytes in the path of a socket, on every system
    config = vars(current_process()).get("_config", {})  # where Python keeps the folder once it exists
    folder = config.get("tempdir") or tempfile.gettempdir()
    if sys.platform == "win32" or len(os.fsencode(folder)) <= longest:
        return
    config.pop("tempdir", None)
    configured, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        get_temp_dir()  # creates the folder once; processes started later use it too
    finally:
        tempfile.tempdir = configured


class _BlocksSigterm(BaseProcess):
    """A process that starts with SIGTERM blocked, for all of its threads: libraries start some before `init_worker`."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the new process inherits it
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_CONTEXTS: dict[str, BaseContext] = {}
"""How workers start, by start method. A fork server is left out: it would block the signal for other users, too."""

if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows

    class _ForkedWorker(_BlocksSigterm, context.ForkProcess):
        pass

    class _SpawnedWorker(_BlocksSigterm, context.SpawnProcess):
        pass

    class _ForkContext(context.ForkContext):
        Process = _ForkedWorker

    class _SpawnContext(context.SpawnContext):
        Process = _SpawnedWorker

    _CONTEXTS |= {"fork": _ForkContext(), "spawn": _SpawnContext()}


def worker_options(rank: int) -> dict[str, Any]:
    """Return options of a `DataLoader` whose workers run on clusters: with long temporary paths, and under signals.

    Args:
        rank: Rank of the process.
    """
    use_short_socket_folder()
    # Asked without `allow_none`, Python would fix the start method for the rest of the process.
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return {"worker_init_fn": partial(init_worker, rank), "multiprocessing_context": _CONTEXTS.get(method)}


def init_worker(rank: int, worker: int) -> None:
    """Seed a data loader's worker, and let it outlive the signals with which schedulers end a job.

    Slurm sends SIGTERM or SIGUSR1 to all processes of a job. The run then needs its workers, to finish its step and
    write a checkpoint. SIGTERM from the run itself ends a worker as usual.

    Args:
        rank: Rank of the run's process.
        worker: Number of the worker.
    """
    from lightning.fabric.utilities.seed import pl_worker_init_function

    pl_worker_init_function(worker, rank)  # Lightning does not seed workers that have a function of their own
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not tell the sender
        return
    # A thread receives the signal even if the worker is busy. An exit code other than 0 would be the loader's error.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_from, args=(parent.pid,), daemon=True).start()


def _exit_on_sigterm_from(process: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)
