"""The real commands, killed in the middle: run again, they write the manifest that an unbroken run writes."""

import shutil
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture(scope="module")
def crowd(folder, tmp_path_factory, manifest_of):
    """100 copies of the photographs and the broken files."""
    crowd = tmp_path_factory.mktemp("crowd")
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix != ".jsonl"]
    rows = []
    for number in range(100):
        name = names[number % len(names)]
        shutil.copy(folder / name, crowd / f"{number:03}_{name}")
        rows.append({"image": f"{number:03}_{name}", "expression": "Neutral"})
    manifest_of(crowd / "m.jsonl", rows)
    return crowd


def start(name, crowd, out, model, workers):
    arguments = ["--detector", model, "--which", "all"] if name == "faces" else ["--landmarker", model]
    command = [sys.executable, "-m", "explllm", name, crowd / "m.jsonl", "-o", out, *arguments]
    return subprocess.Popen(
        [*map(str, command), "--workers", str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("name", "workers"), [("faces", 1), ("aus", 2)])
def test_a_killed_run_resumes(crowd, detector_file, landmarker_file, tmp_path, name, workers):
    model = detector_file if name == "faces" else landmarker_file
    unbroken = start(name, crowd, tmp_path / "unbroken.csv", model, 1)
    _, errors = unbroken.communicate()
    assert unbroken.returncode == 1 and "Traceback" not in errors, errors

    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial.jsonl"
    killed = start(name, crowd, out, model, workers)
    while not partial.exists() or partial.read_bytes().count(b'"index"') < 20:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 20 <= partial.read_bytes().count(b'"index"') < 100 and not out.exists()

    resumed = start(name, crowd, out, model, workers)
    _, errors = resumed.communicate()
    assert resumed.returncode == 1 and "Traceback" not in errors, errors
    assert out.read_bytes() == (tmp_path / "unbroken.csv").read_bytes()
    assert not partial.exists()
