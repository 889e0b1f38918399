"""ONNX Runtime sessions, and messages about the device that they use."""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from explllm.core.cpu import available_cpus
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Provider = Literal["auto", "cpu", "cuda"]
"""Device of a model; ``auto`` uses the GPU if onnxruntime can, otherwise the CPU."""

_LOG_ERRORS_ONLY = 3


def has_nvidia_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, even if no library can use it."""
    return shutil.which("nvidia-smi") is not None or any(Path("/proc/driver/nvidia/gpus").glob("*"))


def open_session(
    path: str | PathLike[str], provider: Provider = "auto", threads: int | None = None
) -> InferenceSession:
    """Open an ONNX file, by default with all available CPU cores.

    Raises:
        MissingPathError: If the file does not exist.
        CheckpointError: If onnxruntime cannot run the file.
        ConfigError: If onnxruntime is not installed, or cannot use the requested GPU.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPathError("the file does not exist", where=path, remedy="Check the path.")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"onnxruntime cannot be imported ({error})", remedy='Install it: pip install "explllm[faces,aus]".'
        ) from error
    providers = ["CPUExecutionProvider"]
    if provider != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
        # torch's wheels contain the CUDA libraries, but onnxruntime does not look for them there.
        preload: Any = getattr(onnxruntime, "preload_dlls", None)
        if preload is not None:
            preload()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads or available_cpus()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base class
        raise CheckpointError(
            "a file that is not an ONNX model, or that onnxruntime cannot run",
            where=path,
            remedy="Pass a complete .onnx file.",
        ) from error
    if provider == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise ConfigError(
            "onnxruntime cannot use a GPU here",
            remedy="Use --provider cpu, or install onnxruntime-gpu instead of onnxruntime (never both).",
        )
    return session


def describe_provider(session: InferenceSession, what: str, provider: Provider = "auto") -> list[str]:
    """Return a line about the device that a model runs on; the line refers to the model as `what`.

    A second line warns if the model runs on the CPU of a machine with a GPU although `provider` is not ``cpu``.
    """
    used = session.get_providers()[0]
    lines = [f"{what}: {used}"]
    if used == "CPUExecutionProvider" and provider != "cpu" and has_nvidia_gpu():
        lines.append(
            f"warning: {what} runs on the CPU although this machine has a GPU: install onnxruntime-gpu instead of "
            "onnxruntime (pip uninstall onnxruntime first: both install into the same folder)"
        )
    return lines
