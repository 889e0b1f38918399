"""Opening ONNX files, and saying what they run on."""

from __future__ import annotations

import os
import shutil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from explllm.core.errors import CheckpointError, ConfigError, MissingPathError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Provider = Literal["auto", "cpu", "cuda"]
"""Where a model runs; ``auto``: on the GPU if onnxruntime can, else on the CPU."""

_QUIET = 3
"""onnxruntime's level of messages: errors alone are printed."""


def available_cpus() -> int:
    """Return the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def has_nvidia_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, whether or not any library can use it."""
    return shutil.which("nvidia-smi") is not None or any(Path("/proc/driver/nvidia/gpus").glob("*"))


def open_session(
    path: str | PathLike[str], provider: Provider = "auto", threads: int | None = None
) -> InferenceSession:
    """Open an ONNX file.

    Args:
        path: The file.
        provider: Where it shall run.
        threads: CPU threads; all usable cores by default.

    Returns:
        onnxruntime's session.

    Raises:
        MissingPathError: If there is no such file.
        CheckpointError: If the file is no ONNX model that onnxruntime can run.
        ConfigError: If onnxruntime is not installed, or cannot use the GPU that was asked for.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPathError("there is no such file", where=path, remedy="Check the path.")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"onnxruntime cannot be imported ({error})", remedy='Install it: pip install "explllm[faces,aus]".'
        ) from error
    providers = ["CPUExecutionProvider"]
    if provider != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
        # CUDA's libraries lie in the wheels that torch brought; onnxruntime does not look there by itself.
        preload: Any = getattr(onnxruntime, "preload_dlls", None)
        if preload is not None:
            preload()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads or available_cpus()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own errors have no common base below it
        raise CheckpointError(
            "a file that is no ONNX model, or one that onnxruntime cannot run",
            where=path,
            remedy="Give a complete .onnx file.",
        ) from error
    if provider == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise ConfigError(
            "onnxruntime cannot use a GPU here",
            remedy="Take --provider cpu, or have onnxruntime-gpu instead of onnxruntime (never both).",
        )
    return session


def describe_provider(session: InferenceSession, what: str, provider: Provider = "auto") -> list[str]:
    """Say what a model runs on.

    Args:
        session: onnxruntime's session.
        what: The model, for the message.
        provider: What was asked for.

    Returns:
        One line, and a warning where the CPU does the work although the machine has a GPU and nobody asked for the CPU.
    """
    used = session.get_providers()[0]
    lines = [f"{what}: {used}"]
    if used == "CPUExecutionProvider" and provider != "cpu" and has_nvidia_gpu():
        lines.append(
            f"warning: {what} runs on the CPU although this machine has a GPU: onnxruntime-gpu must be installed "
            "instead of onnxruntime (pip uninstall onnxruntime first; both unpack into one folder)"
        )
    return lines
