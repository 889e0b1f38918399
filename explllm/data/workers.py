"""Data loader workers on clusters: long temporary paths, and signals sent to all processes of a job."""

import multiprocessing
import os
import random
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
    """Put the sockets of worker processes in ``/tmp`` if the path in ``TMPDIR`` is too long for a socket.

    Some clusters set such a path. Data loader workers would then fail to send their batches, and the loader would wait
    forever. Newer Python releases handle this themselves.
    """
    longest = 103 - len("/pymp-12345678/listener-12345678")  # in bytes; short enough on every system
    config = vars(current_process()).get("_config", {})  # where Python stores the folder's path once it exists
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
    """A process that starts with SIGTERM blocked, even in threads that libraries start before `init_worker`."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the new process inherits this mask
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_CONTEXTS: dict[str, BaseContext] = {}
"""Multiprocessing contexts by start method. There is none for forkserver, because its server process would also block
the signal in processes that other code starts."""

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
    """Return `DataLoader` options for long temporary paths and for the signals that cluster schedulers send.

    Args:
        rank: Rank of the process.
    """
    use_short_socket_folder()
    # Without `allow_none`, this call would fix the start method for the rest of the process.
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return {"worker_init_fn": partial(init_worker, rank), "multiprocessing_context": _CONTEXTS.get(method)}


def init_worker(rank: int, worker: int) -> None:
    """Seed a data loader worker, and make it survive the signals that schedulers send to end a job.

    Slurm sends SIGTERM or SIGUSR1 to all processes of a job. The run still needs its workers then, to finish the
    current step and write a checkpoint. SIGTERM from the run itself ends a worker as usual.

    Args:
        rank: Rank of the run's process.
        worker: Number of the worker.
    """
    _seed(rank)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not report the sender
        return
    # A thread receives the signal even if the worker is busy. With an exit code other than 0, the loader would raise an
    # error.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_from, args=(parent.pid,), daemon=True).start()


def _seed(rank: int) -> None:
    # Lightning does not seed workers that have a worker_init_fn, and PyTorch's seeds are the same on all ranks.
    # Importing Lightning for its function would take a spawned worker several seconds.
    import numpy as np
    import torch

    seeds = np.random.SeedSequence([torch.initial_seed(), rank])  # the first differs between workers and epochs
    np.random.seed(seeds.generate_state(4))
    for set_seed, state in zip((torch.manual_seed, random.seed), seeds.generate_state(2, np.uint64), strict=True):
        set_seed(int(state))


def _exit_on_sigterm_from(process: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)
