"""Worker processes of data loaders, on clusters: long temporary paths, and signals to all processes of a job."""

import atexit
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import current_process
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


@functools.cache
def outliving_signals() -> Callable[[int], None]:
    """Return a ``worker_init_fn`` for data loaders whose workers outlive the signals that end a job on a cluster.

    Slurm sends SIGTERM or SIGUSR1 to all processes of a job. The run then needs its workers, to finish its step and
    write a checkpoint. Workers that remain when this process exits end by multiprocessing's SIGTERM, as usual.
    """
    closing = multiprocessing.RawValue("b", 0)
    # Runs before multiprocessing sends the signal: exit functions run in reverse order.
    atexit.register(setattr, closing, "value", 1)
    return functools.partial(_outlive_signals, closing)


def _outlive_signals(closing: Any, worker: int) -> None:
    # An exit code other than 0 would be an error of the data loader.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if closing.value else None)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
