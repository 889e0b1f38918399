"""Worker processes of data loaders, on clusters: long temporary paths, and signals to all processes of a job."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from multiprocessing import current_process
from multiprocessing.util import get_temp_dir

from lightning.fabric.utilities.seed import pl_worker_init_function


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


def init_worker(rank: int, worker: int) -> None:
    """Seed a data loader's worker, and let it outlive the signals with which schedulers end a job.

    Slurm sends SIGTERM or SIGUSR1 to all processes of a job. The run then needs its workers, to finish its step and
    write a checkpoint. SIGTERM from the run itself ends a worker as usual.

    Args:
        rank: Rank of the run's process.
        worker: Number of the worker.
    """
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
