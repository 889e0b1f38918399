"""Worker processes of data loaders, on clusters: long temporary paths, and signals to all processes of a job."""

import os
import signal
import sys
import tempfile
from multiprocessing import current_process
from multiprocessing.util import get_temp_dir


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


def outlive_first_signal(worker: int) -> None:
    """Let a worker continue after the signal with which a scheduler ends a job; a data loader calls this in the worker.

    Slurm sends SIGTERM or SIGUSR1 to all processes of a job. The run then needs its workers, to finish its step and
    write a checkpoint. A second SIGTERM ends a worker: multiprocessing sends one to those that remain when a run exits.

    Args:
        worker: Number of the worker.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
