"""`explllm doctor` in broken environments: packages placed before the real ones on Python's path."""

import json
import os
import resource
import subprocess
import sys

import pytest

BROKEN_TORCH = "raise OSError('libcudart.so.12: cannot open shared object file')"


def cpu_seconds():
    """Return the processor time of all ended child processes, which other load on the machine does not change."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture
def doctor(repository, tmp_path):
    """Runs the command with modules (name to code) and installed packages (name and version to metadata lines)."""

    def run(modules, packages=(), **variables):
        site = tmp_path / "site"
        for name, code in modules.items():
            (site / name).mkdir(parents=True)
            (site / name / "__init__.py").write_text(code)
        for name, version, *lines in packages:
            folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir(parents=True)
            header = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
            (folder / "METADATA").write_text("\n".join(header) + "\n")
        path = os.pathsep.join([str(site), str(repository)])
        environment = {**os.environ, "PYTHONPATH": path, "EXPLLLM_CACHE": str(tmp_path / "cache"), **variables}
        before = cpu_seconds()
        command = [sys.executable, "-m", "explllm", "doctor", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.stderr == "" and done.returncode in (0, 1)
        report = json.loads(done.stdout)
        report["cpu_seconds"] = cpu_seconds() - before
        report["cures"] = {problem["problem"]: problem["cure"] for problem in report["problems"]}
        assert done.returncode == bool(report["problems"])
        return report

    return run


def test_downloads_that_cannot_be_read(doctor, explllm, fitted, drawn_faces, tmp_path, monkeypatch):
    """The report says so, and other commands go on without them."""
    folder = str(tmp_path / ("x" * 300))  # as root, the test could read a locked folder
    report = doctor({}, EXPLLLM_CACHE=folder)
    assert "EXPLLLM_CACHE" in cure(report, "the downloads cannot be read: File name too long [") and folder in str(
        report
    )
    assert report["cache"] == {"folder": folder, "files": {}}
    monkeypatch.setenv("EXPLLLM_CACHE", folder)
    done = explllm("recognize", next(drawn_faces.glob("test/*.png")), "--model", fitted / "model")
    assert done.status == 0 and "no face detector: each picture is treated as one face" in done.err
    assert explllm("models").status == 0


def cure(report, words):
    [found] = [cure for problem, cure in report["cures"].items() if words in problem]
    return found


def test_opencv_without_its_libraries(doctor, tmp_path):
    """Two builds of OpenCV, of which the last one needs a library that the machine lacks; torch hangs."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/file.onnx").write_bytes(bytes(10))
    libgl = "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    slow = "import time; time.sleep(60)"
    packages = [("opencv-python", "4.9.0"), ("opencv-python-headless", "5.0.0")]
    report = doctor({"cv2": libgl, "torch": slow}, packages, HF_HUB_OFFLINE="1")
    reinstall = "pip install --force-reinstall --no-deps opencv-python-headless"
    assert cure(report, "`import cv2` fails: ImportError: libGL.so.1") == reinstall
    assert cure(report, "OpenCV builds of different versions") == reinstall
    assert "opencv-python 4.9.0" in report["opencv_builds"]
    assert "busy machine" in cure(report, "`import torch` took longer than 8 seconds")
    assert report["devices"] == [] and report["variables"]["HF_HUB_OFFLINE"] == "1"
    assert report["cpu_seconds"] < 10
    assert report["cache"] == {"folder": str(tmp_path / "cache"), "files": {"file.onnx": 10}}


def test_two_onnxruntimes_and_a_broken_torch(doctor):
    providers = "def get_available_providers(): return ['CPUExecutionProvider']"
    packages = [("onnxruntime", "1.22"), ("onnxruntime-gpu", "1.22")]
    report = doctor({"torch": BROKEN_TORCH, "onnxruntime": providers, "cv2": "__version__ = '1'"}, packages)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in cure(report, "onnxruntime-gpu 1.22 share one folder")
    assert cure(report, "`import torch` fails: OSError: libcudart.so.12") == (
        "pip install --force-reinstall --no-deps torch"
    )
    assert report["onnxruntime_providers"] == ["CPUExecutionProvider"]


def test_missing_and_old_packages(doctor):
    requirements = [
        "Provides-Extra: faces",
        "Provides-Extra: aus",
        "Requires-Dist: rich>=999",
        "Requires-Dist: no-such-package>=2",
        "Requires-Dist: no-such-detector; extra == 'faces'",
        "Requires-Dist: pyyaml>=999; extra == 'aus'",
    ]
    modules = {"torch": BROKEN_TORCH, "cv2": "__version__ = '1'", "onnxruntime": BROKEN_TORCH}
    report = doctor(modules, [("explllm", "9.9", *requirements)])
    assert report["versions"]["explllm"] == "9.9" and report["versions"]["no-such-package"] is None
    assert cure(report, "no-such-package is not installed; explllm needs") == 'pip install "no-such-package>=2"'
    assert cure(report, "; explllm needs rich>=999") == 'pip install "rich>=999"'
    assert cure(report, "; the extra aus needs pyyaml>=999") == 'pip install "pyyaml>=999"'
    faces = {"packages": ["no-such-detector"], "install": 'pip install "explllm[faces]"'}
    assert report["missing_extras"] == {"faces": faces}


def test_the_report_of_this_installation(explllm):
    before = cpu_seconds()
    done = explllm("doctor")
    assert cpu_seconds() - before < 10  # the probes import torch, OpenCV and onnxruntime
    assert done.status in (0, 1) and done.err == ""
    for words in ("Python ", "devices ", "onnxruntime ", "OpenCV ", "torch", "transformers"):
        assert words in done.out
