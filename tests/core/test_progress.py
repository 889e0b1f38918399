"""The progress of long work on a terminal and in a log file."""

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from explllm.core import progress
from explllm.core.progress import ProgressBar, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_have_rate_and_time_left(clock, capsys):
    with ProgressBar("faces", 1000, done=200) as bar:
        for _ in range(60):
            clock.now += 1
            bar.advance(2, "failed 3")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "faces: 260 of 1,000, 2.0/s, 0:06:10 left, failed 3"
    assert second == "faces: 320 of 1,000, 2.0/s, 0:05:40 left, failed 3"


def test_the_rate_is_that_of_the_last_minute(clock, capsys):
    """Answers that a resumed run has recorded arrive at once."""
    with ProgressBar("texts", 1000) as bar:
        bar.advance(500)
        for _ in range(120):
            clock.now += 1
            bar.advance()
    assert capsys.readouterr().err.splitlines()[-1] == "texts: 620 of 1,000, 1.0/s, 0:06:20 left"


@pytest.mark.parametrize(
    ("options", "step", "line"),
    [
        ({"total": None}, 60, "x: 60, 2.0/s"),
        ({"total": 90}, 1, "x: 1 of 90, 2.0/min, 0:44:30 left"),
        ({"total": 5_000_000_000, "in_bytes": True}, 10**9, "x: 1.0 GB of 5.0 GB, 33.3 MB/s, 0:02:00 left"),
    ],
    ids=["unknown total", "slow", "bytes"],
)
def test_units(clock, capsys, options, step, line):
    with ProgressBar("x", **options) as bar:
        clock.now += 30
        bar.advance(step)
    assert capsys.readouterr().err == f"{line}\n"


def test_one_bar_at_a_time(clock, capsys):
    for _ in track(range(2), "outer", 2):
        for _ in track(range(3), "inner", 3):
            clock.now += 40
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["outer", "outer"]
    assert not ProgressBar._is_shown


def test_on_a_terminal_the_output_stays_on_stdout():
    """A bar appears beside the output of the command, which may be piped, and disappears."""
    script = """
import time
from explllm.core import progress
progress.SECONDS_BEFORE_BAR = 0.05
for number in progress.track(range(8), "counting", 8):
    print(number)
    time.sleep(0.15)
"""
    terminal, side = pty.openpty()
    shown = bytearray()

    def read():
        try:
            while content := os.read(terminal, 1024):
                shown.extend(content)
        except OSError:  # closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=side, env=environment, check=True
    )
    os.close(side)
    reader.join()
    assert process.stdout.split() == [str(number).encode() for number in range(8)]
    assert re.search(rb"counting.*\d of 8, [\d.]+/(s|min), 0:00:\d\d left", shown)
    assert shown.endswith(b"\x1b[?25h") or b"\x1b[2K" in shown[-40:]  # erased, and the cursor is back
