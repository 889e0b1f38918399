"""Metrics with a state give the same metrics by two processes as by one. They talk over gloo, on the CPU."""

import json
import os
import subprocess
import sys

import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.rule_writer import RuleWriter
from explllm.metrics.chain_of_thought import ChainOfThoughtMetrics
from explllm.metrics.exp_cot_score import ExpCoTScore, Judgment

UNITS = [0.6 if "Lip Corner Pull" in name else 0.0 for name in NAMES]
GOOD = RuleWriter().write(UNITS, Expression.HAPPINESS).text
TEXTS = [
    (GOOD, "Happiness", UNITS),
    ("The nose is strongly wrinkled.", None, UNITS),
    (GOOD + " on" * 130, "Fear", None),
    ("**Conclusion:** This face shows happiness.", "Happiness", UNITS),
    (GOOD, None, UNITS[::-1]),
]
JUDGEMENTS = [(5, 4, 5), (1, 0, 0), (2, 2.5, 5), (0, 0, 0), (4, 4, 0)]

SCRIPT = """
import json, os, sys
import torch.distributed as distributed
sys.path.insert(0, {here!r})
from test_two_processes import metrics
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for shares in json.loads(sys.argv[3]):
    found = metrics(shares[rank])
    if rank == 1:
        print(json.dumps(found))
distributed.destroy_process_group()
"""


def metrics(places):
    """Both metrics over some of the texts and judgments, one update each."""
    words, scores = ChainOfThoughtMetrics(), ExpCoTScore()
    for place in places:
        text, label, units = TEXTS[place]
        words.update([text], [label and Expression(label)], [units])
        scores.update([Judgment(*JUDGEMENTS[place])])
    return [words.compute(), scores.compute()]


SHARES = [[[0, 2, 4], [1, 3]], [[], [0, 1, 2, 3, 4]]]
"""Places of each process; in the second case one has none."""


def test_two_processes_count_what_one_counts(tmp_path):
    script = SCRIPT.format(here=os.path.dirname(__file__))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(tmp_path / "meet"), json.dumps(SHARES)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    (_, first), (out, second) = (process.communicate(timeout=600) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    alone = metrics(range(5))
    assert alone[0]["count"] == alone[1]["count"] == 5
    assert len(out.splitlines()) == len(SHARES)
    for line in out.splitlines():
        for together, one in zip(json.loads(line), alone, strict=True):
            assert together == pytest.approx(one, nan_ok=True)
