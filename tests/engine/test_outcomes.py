"""Outcomes on the disk: given back by row, and not held in memory."""

import subprocess
import sys

import pytest

from explllm.core.errors import InputError
from explllm.engine.face import Outcome, Status
from explllm.engine.outcomes import OutcomeStore


def test_they_come_back_by_row():
    outcomes = OutcomeStore()
    outcomes.add(7, Outcome(Status.FAILED, None, 4, "not \udcff accepted", 0.5))
    outcomes.add(2, Outcome(Status.ACCEPTED, "a text \udcff", 1, "", 0.25))
    outcomes.add(5, Outcome(Status.FAILED, None, 0, "refused", 0.0))
    assert len(outcomes) == 3 and outcomes.count("failed") == 2 and outcomes.count("accepted") == 1
    assert outcomes.reasons("failed", 1) == [(5, "refused")]
    assert outcomes.reasons("failed", 9) == [(5, "refused"), (7, "not \ufffd accepted")]
    assert set(outcomes.cells(3, 7)) == {5, 7}
    assert outcomes.cells(0, 4) == {
        2: {"cot": "a text \ufffd", "cot_rounds": 1, "cot_status": "accepted", "cot_reason": None, "cot_cost": 0.25}
    }


GROWTH = """
import gc, psutil
from explllm.engine.face import Outcome, Status
from explllm.engine.outcomes import OutcomeStore

outcomes, process = OutcomeStore(), psutil.Process()
outcomes.add(0, Outcome(Status.ACCEPTED, "x" * 1000, 0, "", 0.0))
gc.collect()
before = process.memory_info().rss
for row in range(1, 40_000):
    outcomes.add(row, Outcome(Status.ACCEPTED, f"{row}" + "x" * 1000, 0, "", 0.0))
assert len(outcomes) == 40_000
print(process.memory_info().rss - before)
"""


def test_their_texts_are_not_in_memory():
    """In a process of its own: other threads of this one may allocate meanwhile."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    # Measured: 0.16 MB.
    assert grown < 8e6, f"{grown / 1e6:.1f} MB for 40 MB of texts"


def test_a_full_disk_is_a_clear_error():
    outcomes = OutcomeStore()
    outcomes._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(InputError, match="temporary file: database or disk is full.*TMPDIR"):
        for row in range(1000):
            outcomes.add(row, Outcome(Status.ACCEPTED, "x" * 1000, 0, "", 0.0))
    assert len(outcomes) > 10 and outcomes.cells(0, 0)[0]["cot"] == "x" * 1000
