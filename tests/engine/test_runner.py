"""A run's summary."""

from pathlib import Path

from explllm.engine.baseline import BaselineOutcome, BaselineStatus
from explllm.engine.progress import print_summary
from explllm.engine.runner import RunResult


def test_what_failed_is_named_and_the_rest_is_looked_up(capsys):
    built = RunResult(total=13)
    for row in reversed(range(13)):
        built.outcomes.add(row, BaselineOutcome(BaselineStatus.FAILED, reason=f"label: fault {row}"))
    print_summary(built, BaselineStatus, {"no face found": 2}, Path("out[1].parquet"))
    said = capsys.readouterr()
    assert "skipped: no face found     2" in said.out
    lines = said.err.splitlines()
    assert len(lines) == 11 and lines[0] == "failed: row 1: label: fault 0"
    assert lines[10] == "failed: 3 more; see the reasons in out[1].parquet"
