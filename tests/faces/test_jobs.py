"""Runs that are broken off go on, and end in the same results."""

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
from explllm.faces.jobs import JobOptions, partial_path, read_results, run_job


@dataclass(frozen=True)
class Squares:
    """Squares numbers; a text is bad, a negative number kills the process."""

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
            return {"bad": f"{item} is no number", "square": None}
        if item < 0:
            os._exit(9)
        return {"bad": None, "square": item**2}


@pytest.fixture
def work(tmp_path):
    return Squares(tmp_path / "log")


@pytest.fixture
def how(tmp_path):
    return lambda **changes: JobOptions(
        **{"partial": tmp_path / "p.jsonl", "settings": {"a": 1}, "title": "", **changes}
    )


def done(work):
    return work.log.read_text().splitlines()


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_once(work, how, tmp_path, workers, chunk):
    run_job(list(range(10)), work, how(workers=workers, chunk=chunk))
    assert read_results(tmp_path / "p.jsonl") == {n: {"bad": None, "square": n**2} for n in range(10)}
    assert sorted(map(int, done(work))) == list(range(10))
    assert work.closed == [True] * (workers == 1)  # in a worker it is another object
    run_job(list(range(10)), work, how(workers=workers, chunk=chunk))
    assert len(done(work)) == 10  # nothing is left to do


def test_a_line_cut_off_is_done_again(work, how, tmp_path):
    run_job([1, 2, 3], work, how())
    path = tmp_path / "p.jsonl"
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 20):
        path.write_bytes(whole[:length])
        work.log.unlink()
        run_job([1, 2, 3], work, how())
        assert done(work) == ["3"] and path.read_bytes() == whole


def test_other_settings_are_refused(work, how):
    run_job([1], work, how(settings={"a": 1, "b": (2, 3)}))
    run_job([1], work, how(settings={"a": 1, "b": (2, 3)}))
    with pytest.raises(ConfigError, match=r"an unfinished run with another a, b \[.*p.jsonl\]. Give the same"):
        run_job([1], work, how(settings={"a": 2, "b": 3}))


def test_a_file_that_is_no_run_is_refused(work, how, tmp_path):
    (tmp_path / "p.jsonl").write_text("something else\n")
    with pytest.raises(ConfigError, match="an unfinished run"):
        run_job([1], work, how())
    assert (tmp_path / "p.jsonl").read_text() == "something else\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_bad_ones_stop_the_run_and_are_tried_again(work, how, tmp_path, workers):
    items = [1, "x", 2, "y", 3, 4, 5, 6]
    with pytest.raises(InputError, match="2 images could not be used, the last because: . is no number. Fix them"):
        run_job(items, work, how(max_bad=1, workers=workers))
    items[1], items[3] = 10, 20  # mended
    run_job(items, work, how(max_bad=0, workers=workers))
    assert {n: held["square"] for n, held in sorted(read_results(tmp_path / "p.jsonl").items())} == {
        n: item**2 for n, item in enumerate(items)
    }


def test_any_number_may_be_bad_without_a_limit(work, how, tmp_path):
    run_job(["x", 1, "y"], work, how())
    assert [held["bad"] for held in read_results(tmp_path / "p.jsonl").values()] == [
        "x is no number",
        None,
        "y is no number",
    ]


def test_a_worker_that_dies_ends_the_run_in_one_line(work, how, tmp_path):
    with pytest.raises(InputError, match=r"a worker process died after \d of 5 images. Run the same command again"):
        run_job([1, 2, -1, 3, 4], work, how(workers=2))
    run_job([1, 2, 5, 3, 4], work, how(workers=2))
    assert len(read_results(tmp_path / "p.jsonl")) == 5


SCRIPT = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from explllm.faces.jobs import JobOptions, run_job

class Slow:
    @contextmanager
    def open(self):
        yield lambda items: [self.one(item) for item in items]
    def one(self, item):
        time.sleep(0.1)
        return {"bad": None, "item": item}

if __name__ == "__main__":
    run_job(list(range(200)), Slow(), JobOptions(Path(sys.argv[1]), {}, "", workers=int(sys.argv[2])))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_whole_lines_and_no_processes(tmp_path, workers):
    (tmp_path / "slow.py").write_text(SCRIPT)
    partial = tmp_path / "p.jsonl"
    process = subprocess.Popen([sys.executable, tmp_path / "slow.py", partial, str(workers)])
    while not partial.exists() or partial.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= (2 if workers == 2 else 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert all(json.loads(line) is not None for line in partial.read_text().splitlines())


def test_ctrl_c_says_how_to_go_on(tmp_path):
    (tmp_path / "slow.py").write_text(SCRIPT)
    partial = tmp_path / "p.jsonl"
    process = subprocess.Popen([sys.executable, tmp_path / "slow.py", partial, "2"], stderr=subprocess.PIPE, text=True)
    while not partial.exists() or partial.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "of 200 images are done. Run the same command again to resume." in errors


def test_where_results_go():
    assert partial_path("a/b.parquet") == Path("a/b.parquet.partial.jsonl")
