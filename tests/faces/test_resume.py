"""The real commands, killed in the middle: run again, they write the manifest that an unbroken run writes."""

import shutil
import signal
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def crowd(folder, tmp_path_factory, manifest_of):
    """60 copies of the photographs and the broken files."""
    crowd = tmp_path_factory.mktemp("crowd")
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix != ".jsonl"]
    rows = []
    for number in range(60):
        name = names[number % len(names)]
        shutil.copy(folder / name, crowd / f"{number:03}_{name}")
        rows.append({"image": f"{number:03}_{name}", "expression": "Neutral"})
    manifest_of(crowd / "m.jsonl", rows)
    return crowd


KILLED = """
import os, signal, sys
from explllm.cli import main
from explllm.faces import jobs

append, written = jobs.append, 0

def append_and_die(file, line):
    global written
    append(file, line)
    written += "index" in line
    if written == 20:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    jobs.append = append_and_die
    main(sys.argv[1:])
"""


@pytest.mark.parametrize(("name", "workers"), [("faces", 1), ("aus", 2)])
def test_a_killed_run_resumes(crowd, detector_file, landmarker_file, explllm, tmp_path, name, workers):
    options = ("--detector", detector_file, "--which", "all") if name == "faces" else ("--landmarker", landmarker_file)
    command = (name, crowd / "m.jsonl", *options, "-o")
    unbroken = explllm(*command, tmp_path / "unbroken.csv", "--workers", 1)
    assert unbroken.status == 1 and "Traceback" not in unbroken.err

    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial.jsonl"
    (tmp_path / "killed.py").write_text(KILLED)
    killed = [sys.executable, tmp_path / "killed.py", *command, out, "--workers", workers]
    assert subprocess.run(list(map(str, killed)), capture_output=True).returncode == -signal.SIGKILL
    assert partial.read_bytes().count(b'"index"') == 20 and not out.exists()

    resumed = explllm(*command, out, "--workers", workers)
    assert resumed.status == 1 and "Traceback" not in resumed.err
    assert out.read_bytes() == (tmp_path / "unbroken.csv").read_bytes()
    assert not partial.exists()
