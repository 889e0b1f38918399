"""Interrupted jobs resume and end with the same results."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from explllm.core.errors import ConfigError, InputError
from explllm.faces import jobs
from explllm.faces.job_results import Results, exclusive, partial_path
from explllm.faces.jobs import JobOptions, run_job


@dataclass(frozen=True)
class Squares:
    """Squares numbers. A text is unusable, a negative number ends the process."""

    log: Path
    closed: list = field(default_factory=list)

    @contextmanager
    def open(self):
        yield lambda items: [self.one(item) for item in items]
        self.closed.append(True)

    def one(self, item):
        with self.log.open("a") as file:
            file.write(f"{item}\n")
        if isinstance(item, str):
            return {"bad": f"{item} is not a number", "square": None, "missing": item == "missing"}
        if item < 0:
            os._exit(9)
        return {"bad": None, "square": item**2}

    def reject(self, item, reason):
        return {"bad": f"{item}: {reason}", "square": None}


@pytest.fixture
def job(tmp_path):
    return Squares(tmp_path / "log")


@pytest.fixture
def run(job, tmp_path):
    """Process items; returns the results so far by index."""

    def run(items, **changes):
        options = {"partial": tmp_path / "p.jsonl", "settings": {"a": 1}, "title": "squares", "total": len(items)}
        run_job(enumerate(items), job, JobOptions(**{**options, **changes}))
        return read(tmp_path / "p.jsonl")

    return run


def read(path):
    results = Results(path)
    found = {index: results[index] for index in range(1000) if index in results}
    assert len(results) == len(found) and results.bad == {i for i, result in found.items() if result["bad"] is not None}
    results.close()
    return found


def squares(results):
    return {index: result["square"] for index, result in results.items()}


def processed(job):
    return job.log.read_text().splitlines()


@pytest.mark.parametrize(("workers", "chunk"), [(1, 1), (1, 3), (2, 3)])
def test_every_item_once(job, run, workers, chunk):
    assert squares(run(range(10), workers=workers, chunk=chunk)) == {n: n**2 for n in range(10)}
    assert sorted(map(int, processed(job))) == list(range(10))
    assert job.closed == [True] * (workers == 1)  # workers have a copy
    run(range(10), workers=workers, chunk=chunk)
    assert len(processed(job)) == 10


def test_an_incomplete_line_is_repeated(job, run, tmp_path):
    run([1, 2, 3])
    path = tmp_path / "p.jsonl"
    complete = path.read_bytes()
    for length in (len(complete) - 1, len(complete) - 20):
        path.write_bytes(complete[:length])
        job.log.unlink()
        assert squares(run([1, 2, 3])) == {0: 1, 1: 4, 2: 9}
        assert processed(job) == ["3"]


def test_files_of_other_runs_are_refused(run, tmp_path):
    run([1], settings={"a": 1, "b": (2, 3)})
    run([1], settings={"a": 1, "b": (2, 3)})
    with pytest.raises(ConfigError, match=r"an unfinished run with another a, b \[.*p.jsonl\]. Use the same"):
        run([1], settings={"a": 2, "b": 3})
    (tmp_path / "p.jsonl").write_text("something else\n")
    with pytest.raises(ConfigError, match="an unfinished run"):
        run([1])
    assert (tmp_path / "p.jsonl").read_text() == "something else\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_unusable_items_stop_the_run_and_are_repeated(run, workers):
    items = [1, "x", 2, "y", 3, 4, 5, 6]
    with pytest.raises(InputError, match="2 images could not be used, the last because: . is not a number. Fix them"):
        run(items, max_bad=1, workers=workers)
    items[1], items[3] = 10, 20  # fixed
    assert squares(run(items, max_bad=0, workers=workers)) == {n: item**2 for n, item in enumerate(items)}


def test_a_missing_root_stops_early(run, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_MISSING", 5)
    with pytest.raises(InputError, match="the first 5 images do not exist; .*Pass the folder .*--root DIR"):
        run(["missing"] * 9)
    assert not (tmp_path / "p.jsonl").exists()  # the run with --root starts over
    assert len(run(["missing"] * 4 + [1] + ["missing"] * 5)) == 10


def test_items_that_end_their_worker_are_set_aside(job, run):
    results = run([1, 2, -1, 3, -2, 4, 5], workers=2, chunk=2)
    killed = "it crashed its worker process twice"
    assert squares(results) == {0: 1, 1: 4, 2: None, 3: 9, 4: None, 5: 16, 6: 25}
    assert [results[2]["bad"], results[4]["bad"]] == [f"-1: {killed}", f"-2: {killed}"]
    assert 2 <= processed(job).count("-1") <= 3 and 2 <= processed(job).count("-2") <= 3


def test_workers_that_always_die_stop_the_run(run):
    with pytest.raises(InputError, match="worker processes keep dying, .* use fewer --workers"):
        run([-1, -2, -3, -4, -5], workers=2)


SCRIPT = """
import os, sys, time
from contextlib import contextmanager
from pathlib import Path
from explllm.faces.jobs import JobOptions, run_job

class Slow:
    @contextmanager
    def open(self):
        yield lambda items: [self.one(item) for item in items]
    def one(self, item):
        time.sleep(0.02 if len(sys.argv) > 3 else 0.1)
        if len(sys.argv) > 3 and item == 3:
            os._exit(9)
        return {"bad": None, "item": item}
    def reject(self, item, reason):
        return {"bad": reason}

if __name__ == "__main__":
    total = 6 if len(sys.argv) > 3 else 10_000
    run_job(enumerate(range(total)), Slow(), JobOptions(Path(sys.argv[1]), {}, "", total, workers=int(sys.argv[2])))
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "slow.py").write_text(SCRIPT)

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, tmp_path / "slow.py", tmp_path / "p.jsonl", *arguments], stderr=subprocess.PIPE, text=True
        )

    return start


def wait_for_results(process, partial, count=3):
    while not partial.exists() or partial.read_bytes().count(b'"index"') < count:
        assert process.poll() is None
        time.sleep(0.02)


def test_an_item_that_ends_the_only_process_twice_is_set_aside(start, tmp_path):
    assert [start("1", "deadly").wait() for _ in range(3)] == [9, 9, 0]
    results = read(tmp_path / "p.jsonl")
    assert results[3]["bad"] == "it crashed its worker process twice"
    assert [index for index, result in results.items() if result["bad"] is None] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_complete_lines_and_no_processes(start, tmp_path, workers):
    process = start(str(workers))
    wait_for_results(process, tmp_path / "p.jsonl")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= (2 if workers == 2 else 0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=600)
    assert alive == []
    lines = (tmp_path / "p.jsonl").read_bytes().split(b"\n")
    assert all(json.loads(line) is not None for line in lines[:-1])


def test_ctrl_c_says_how_to_resume(start, tmp_path):
    process = start("2")
    wait_for_results(process, tmp_path / "p.jsonl")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert "of 10000 images are done. Run the same command again to resume." in errors


def test_progress(run, monkeypatch, capsys):
    run([1, 2])
    monkeypatch.setattr("explllm.core.progress.REPORT_SECONDS", 0)
    run([1, 2, 3, 4])
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("squares: 3 of 4, ") and last.startswith("squares: 4 of 4, ")
    assert "/s, 0:" in last and last.endswith(" left")


def test_two_runs_exclude_each_other(tmp_path):
    refusal = pytest.raises(ConfigError, match=r"another run is writing this manifest \[.*out.csv\]")
    with exclusive(tmp_path / "out.csv"), refusal, exclusive(tmp_path / "out.csv"):
        pass
    with exclusive(tmp_path / "out.csv"):
        pass
    assert list(tmp_path.iterdir()) == []
    # As on Windows, the file of the lock cannot be deleted.
    with exclusive(tmp_path / "out.csv"):
        (tmp_path / "out.csv.lock").unlink()
        (tmp_path / "out.csv.lock").mkdir()
    (tmp_path / "out.csv.lock").rmdir()
    assert partial_path("a/b.parquet") == Path("a/b.parquet.partial.jsonl")
