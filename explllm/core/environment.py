"""Check the installation: versions, devices, missing extras and conflicting packages, with a fix for each problem."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from explllm.core.downloads import CACHE_VARIABLE, MIRROR_VARIABLE, cache_folder

SECONDS = 8.0
"""Time limit for the test imports. They run in parallel in separate processes, because a broken library may hang or
crash."""

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
_OTHER_EXTRAS = ("dev", "docs")
_VARIABLES = (CACHE_VARIABLE, MIRROR_VARIABLE, "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")

_PROBES = {
    "torch": (
        "import torch, json; cuda = torch.cuda.is_available(); devices = ['cpu'] + "
        "[f'cuda:{i} ' + torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() if cuda else 0)] + "
        "(['mps'] if torch.backends.mps.is_available() else []); print(json.dumps(devices))"
    ),
    "cv2": "import cv2, json; print(json.dumps(cv2.__version__))",
    "onnxruntime": "import onnxruntime, json; print(json.dumps(onnxruntime.get_available_providers()))",
}
"""Code that imports a library and prints its devices or version as JSON."""


@dataclass(frozen=True)
class Problem:
    """A problem with the installation."""

    problem: str
    cure: str
    """What to do, usually a command."""


@dataclass
class Environment:
    """What `explllm doctor` reports."""

    python: str
    platform: str
    versions: dict[str, str | None]
    """Version of explllm and of each package that it or an extra requires; None for a package that is not installed."""
    devices: list[str] = field(default_factory=list)
    """Devices that torch can use."""
    onnxruntime_providers: list[str] = field(default_factory=list)
    opencv_builds: list[str] = field(default_factory=list)
    """Installed OpenCV packages; all of them install into the same folder."""
    missing_extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Optional features with missing packages, and the command that installs these packages."""
    cache: dict[str, Any] = field(default_factory=dict)
    """The download folder, with the size of each file."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that affect explllm."""
    problems: list[Problem] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable values."""
        return asdict(self)


def inspect_environment(has_gpu: bool) -> Environment:
    """Examine the installation in at most ten seconds, without importing heavy libraries into this process.

    Args:
        has_gpu: Whether the machine has an NVIDIA GPU, usable or not.
    """
    probes = {name: _start(code) for name, code in _PROBES.items() if name != "onnxruntime" or _version(name)}
    result = Environment(platform.python_version(), platform.platform(), {})
    _read_requirements(result)
    _read_cache(result)
    result.variables = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    deadline = time.monotonic() + SECONDS
    values = {name: _finish(name, process, deadline, result) for name, process in probes.items()}
    result.devices = values["torch"] or []
    result.onnxruntime_providers = values.get("onnxruntime") or []
    _check_conflicts(result, has_gpu)
    return result


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read_requirements(result: Environment) -> None:
    """Compare the installed packages with the requirements in explllm's metadata."""
    result.versions["explllm"] = _version("explllm")
    try:
        requirements = [Requirement(line) for line in metadata.requires("explllm") or []]
    except metadata.PackageNotFoundError:
        result.problems.append(Problem("explllm is not installed; it is only on Python's path", "pip install ."))
        return
    extras = [
        name for name in metadata.metadata("explllm").get_all("Provides-Extra") or [] if name not in _OTHER_EXTRAS
    ]
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            result.versions[requirement.name] = _version(requirement.name)
            if problem := _unfit(requirement, "explllm"):
                result.problems.append(problem)
    for extra in extras:
        needed = [one for one in requirements if one.marker and one.marker.evaluate({"extra": extra})]
        result.versions |= {one.name: _version(one.name) for one in needed}
        if missing := [one.name for one in needed if _version(one.name) is None]:
            install = f'pip install "explllm[{extra}]"'
            result.missing_extras[extra] = {"packages": missing, "install": install}
        else:
            result.problems += filter(None, (_unfit(one, f"the extra {extra}") for one in needed))


def _unfit(requirement: Requirement, user: str) -> Problem | None:
    version = _version(requirement.name)
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    found = f"{requirement.name} is {'not installed' if version is None else version}"
    return Problem(f"{found}; {user} needs {wanted}", f'pip install "{wanted}"')


def _read_cache(result: Environment) -> None:
    """List the cached files, and report a problem if some cannot be read."""
    folder = cache_folder()
    failures: list[OSError] = []
    sizes = {}
    for parent, _, names in os.walk(folder, onerror=failures.append):
        for path in (Path(parent, name) for name in names if not name.endswith(".lock")):
            try:
                sizes[str(path.relative_to(folder))] = path.stat().st_size
            except OSError as error:
                failures.append(error)
    result.cache = {"folder": str(folder), "files": dict(sorted(sizes.items()))}
    # The folder does not exist before the first download.
    if unreadable := next((error for error in failures if not isinstance(error, FileNotFoundError)), None):
        found = f"the downloads cannot be read: {unreadable.strerror} [{unreadable.filename}]"
        result.problems.append(Problem(found, f"Make it readable, or set {CACHE_VARIABLE} to another folder"))


def _start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


def _finish(name: str, process: subprocess.Popen[str], deadline: float, result: Environment) -> Any:
    """Return a probe's parsed output; if the import fails or times out, report a problem and return None."""
    try:
        output, errors = process.communicate(timeout=max(deadline - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        found = f"`import {name}` took longer than {SECONDS:.0f} seconds"
        result.problems.append(Problem(found, "Run the command again; this can happen on a busy machine"))
        return None
    if process.returncode == 0:
        return json.loads(output.splitlines()[-1])
    reason = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
    result.problems.append(Problem(f"`import {name}` fails: {reason}", _import_cure(name, reason)))
    return None


def _import_cure(name: str, reason: str) -> str:
    if name == "cv2" and (re.search(r"lib(GL|gthread|X11|SM)\b", reason) or _installed(_OPENCV)[1:]):
        return "pip install --force-reinstall --no-deps opencv-python-headless"
    package = {"cv2": "opencv-python-headless"}.get(name, name)
    return f"pip install --force-reinstall --no-deps {package}"


def _installed(packages: tuple[str, ...]) -> list[str]:
    return [f"{name} {version}" for name in packages if (version := _version(name)) is not None]


def _check_conflicts(result: Environment, has_gpu: bool) -> None:
    result.opencv_builds = _installed(_OPENCV)
    if len({build.rpartition(" ")[2] for build in result.opencv_builds}) > 1:
        result.problems.append(
            Problem(
                f"OpenCV builds of different versions share one folder: {', '.join(result.opencv_builds)}",
                "pip install --force-reinstall --no-deps opencv-python-headless",
            )
        )
    if len(both := _installed(_ONNXRUNTIME)) > 1:
        result.problems.append(
            Problem(
                f"{' and '.join(both)} share one folder and overwrite each other's files",
                "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu (or onnxruntime on a CPU)",
            )
        )
    if has_gpu and result.devices and not any(device.startswith("cuda") for device in result.devices):
        result.problems.append(
            Problem(
                "the machine has an NVIDIA GPU that torch cannot use",
                "Install a CUDA build of torch that matches the driver: https://pytorch.org/get-started/locally",
            )
        )
    if has_gpu and result.onnxruntime_providers and "CUDAExecutionProvider" not in result.onnxruntime_providers:
        result.problems.append(
            Problem(
                "the machine has an NVIDIA GPU that onnxruntime cannot use",
                'pip uninstall -y onnxruntime && pip install "explllm[gpu]"',
            )
        )
