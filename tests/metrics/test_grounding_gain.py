"""The grounding gain: what texts say about their own face beyond the stereotype of its predicted class."""

import json

import numpy as np
import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.grounding import ground
from explllm.explanations.rule_writer import RuleWriter
from explllm.metrics.grounding_gain import SWAPS, grounding_gain

FEAR, ANGER = Expression.FEAR, Expression.ANGER


def faces(count, seed=0):
    """Random action units with two classes in turn, and a true text of each face."""
    random = np.random.default_rng(seed)
    units = (random.uniform(0.3, 1, size=(count, 24)) * (random.uniform(size=(count, 24)) < 0.25)).round(2).tolist()
    labels = [(FEAR, ANGER)[row % 2] for row in range(count)]
    texts = [
        RuleWriter().write(own, label, seed=row).text
        for row, (own, label) in enumerate(zip(units, labels, strict=True))
    ]
    return texts, labels, units


def test_stereotypes_have_no_gain_and_true_texts_have_one():
    texts, labels, units = faces(60)
    own = grounding_gain(texts, labels, units)
    low, high = own["grounding_gain_interval"]
    assert 0.4 < low < own["grounding_gain"] < high
    assert own["grounding_f1_own"] - own["grounding_f1_swapped"] == pytest.approx(own["grounding_gain"])
    stereotypes = {label: texts[labels.index(label)] for label in (FEAR, ANGER)}
    same = grounding_gain([stereotypes[label] for label in labels], labels, units)
    assert same["grounding_gain"] == 0 and same["grounding_gain_interval"] == [0, 0]
    assert grounding_gain(texts, labels, units) == own  # seeded
    assert json.loads(json.dumps(own)) == own


def test_equals_all_swaps_within_a_class():
    texts, labels, units = faces(2 * (SWAPS + 1), seed=1)
    units[3][NAMES.index("Jaw Drop")] = None  # not measured
    sums = {"own": np.zeros(2), "swapped": np.zeros(2)}
    for row, label in enumerate(labels):
        others = [other for other in range(len(labels)) if labels[other] == label and other != row]
        for kind, chosen in (("own", [row]), ("swapped", others)):
            found = [ground(texts[other], units[row]) for other in chosen]
            sums[kind] += np.mean(
                [(2 * one.supported_count, one.claimed_count + one.active_count) for one in found], axis=0
            )
    gain = grounding_gain(texts, labels, units)
    assert gain["grounding_f1_own"] == pytest.approx(sums["own"][0] / sums["own"][1])
    assert gain["grounding_f1_swapped"] == pytest.approx(sums["swapped"][0] / sums["swapped"][1])
    assert gain["grounding_gain_faces"] == len(texts)


def test_faces_that_cannot_be_compared():
    texts, labels, units = faces(5)
    # One face without action units, one alone in its class: three of one class remain.
    gain = grounding_gain(texts, labels, [*units[:1], None, *units[2:]])
    assert gain["grounding_gain_faces"] == 3 and gain["grounding_gain"] is not None
    alone = grounding_gain(texts[:2], labels[:2], units[:2])
    assert alone["grounding_gain"] is alone["grounding_gain_interval"] is None and alone["grounding_gain_faces"] == 0
    # Without a predicted label, the conclusion decides.
    assert grounding_gain(texts, [None] * 5, units) == grounding_gain(texts, labels, units)


def test_intervals_narrow_with_more_faces():
    few, many = (np.diff(grounding_gain(*faces(count))["grounding_gain_interval"]) for count in (20, 200))
    assert few > 2 * many


def test_real_texts_follow_their_faces(reference_data):
    rows = json.loads((reference_data / "rafdb" / "rafdb_cot_first600.json").read_text())
    units = [json.loads(row["au"]) if isinstance(row["au"], str) else row["au"] for row in rows]
    labels = [Expression.parse(row["emo"]) for row in rows]
    gain = grounding_gain([row["description"] for row in rows], labels, units, resamples=100)
    assert 0.28 < gain["grounding_gain"] < 0.36  # measured: 0.322
