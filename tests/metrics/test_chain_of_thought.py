"""Metrics of chains of thought that need no judge."""

import json

import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.rule_writer import RuleWriter
from explllm.metrics.chain_of_thought import ChainOfThoughtMetrics, summarize_counts, text_counts

UNITS = [0.0] * 24
UNITS[NAMES.index("Left Lip Corner Pull")] = 0.6
UNITS[NAMES.index("Right Lip Corner Pull")] = 0.6
GOOD = RuleWriter().write(UNITS, Expression.HAPPINESS).text


def metrics(*rows):
    metric = ChainOfThoughtMetrics()
    for text, label, units in rows:
        metric.update([text], [label], [units])
    return metric.compute()


def test_a_text_that_is_true():
    found = metrics((GOOD, Expression.HAPPINESS, UNITS))
    assert found["complete"] == found["agreement"] == found["grounding_f1"] == 1
    assert found["unsupported"] == found["side_errors"] == found["over_limit"] == 0
    assert found["words"] == len(GOOD.split())


def test_what_is_wrong_is_counted():
    left = UNITS.copy()
    left[NAMES.index("Right Lip Corner Pull")] = 0.0
    rows = [
        (GOOD, Expression.FEAR, UNITS),  # another label was said first
        ("The nose is strongly wrinkled.", Expression.HAPPINESS, UNITS),
        (GOOD + " on" * 130, Expression.HAPPINESS, UNITS),
    ]
    found = metrics(*rows)
    assert found["count"] == 3
    assert found["agreement"] == pytest.approx(1 / 3)
    assert found["complete"] == pytest.approx(2 / 3)
    assert found["over_limit"] == pytest.approx(1 / 3)
    assert found["undecided"] == pytest.approx(1 / 3)
    assert found["grounding_recall"] == found["grounding_recall_strong"] == pytest.approx(4 / 6)
    assert found["unsupported"] == pytest.approx(1 / 5)
    sided = text_counts("The right lip corner is pulled up.", None, left)
    assert sided.side_errors == 1 and sided.labeled == 0


def test_strong_units_have_a_recall_of_their_own():
    slight = UNITS.copy()
    slight[NAMES.index("Jaw Drop")], slight[NAMES.index("Chin Raise")] = 0.2, None  # one is not measured
    found = metrics((GOOD, None, slight))
    assert found["grounding_recall"] == pytest.approx(2 / 3) and found["grounding_recall_strong"] == 1
    assert metrics((GOOD, None, [0.2] * 24))["grounding_recall_strong"] is None


def test_a_claim_that_names_no_side_counts_once_in_recall():
    """Either brow supports the claim about each of them, but only one is active."""
    units = [0.5 if name == "Left Brow Raise" else 0.0 for name in NAMES]
    found = metrics(("Key Observations: One brow is raised.", None, units))
    assert found["grounding_precision"] == found["grounding_recall"] == found["grounding_f1"] == 1


def test_weights_apply_to_all_counts():
    units = [0.5 if name == "Jaw Drop" else 0.0 for name in NAMES]
    text = "The jaw is dropped and the nose is wrinkled."
    plain, weighted = (summarize_counts(text_counts(text, None, units, weights)) for weights in (None, [0.2] * 24))
    assert weighted == pytest.approx(plain) and plain["unsupported"] == 0.5


def test_without_action_units_nothing_is_said_of_grounding():
    found = metrics((GOOD, None, None))
    assert found["grounding_f1"] is None and found["agreement"] is None and found["complete"] == 1


def test_real_texts_written_from_their_action_units(reference_data):
    records = json.loads((reference_data / "rafdb" / "rafdb_cot_first600.json").read_text())
    metric = ChainOfThoughtMetrics()
    metric.update(
        [record["description"] for record in records],
        [Expression.parse(record["emo"]) for record in records],
        [json.loads(record["au"]) if isinstance(record["au"], str) else record["au"] for record in records],
    )
    found = metric.compute()
    assert found["agreement"] > 0.97
    assert found["grounding_precision"] > 0.85 and found["grounding_recall"] > 0.7  # measured: 0.925, 0.794
    assert 0.04 < found["over_limit"] < 0.10
