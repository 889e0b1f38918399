import numpy as np
import pytest

from explllm.core.action_units import FEAFA, NAMES
from explllm.core.expressions import Expression
from explllm.drawn_faces.prototypes import MINIMUM_DEFINING, NOISE, PROTOTYPES, sample_action_units

SAMPLES = 60


def samples(expression):
    random = np.random.default_rng(7)
    return np.stack([sample_action_units(expression, random) for _ in range(SAMPLES)])


def column(values, name):
    return values[:, NAMES.index(name)]


def places(name):
    return [NAMES.index(name)] if name in NAMES else [NAMES.index(f"{side} {name}") for side in ("Left", "Right")]


@pytest.mark.parametrize("expression", Expression)
def test_samples_are_intensities_that_vary(expression):
    values = samples(expression)
    assert values.shape == (SAMPLES, 24)
    assert values.min() >= 0
    assert values.max() <= 1
    assert np.array_equal(values, values.round(4))
    assert len(np.unique(values, axis=0)) == SAMPLES
    assert np.array_equal(values, samples(expression))


@pytest.mark.parametrize("expression", [e for e in Expression if e not in (Expression.NEUTRAL, Expression.CONTEMPT)])
def test_defining_units_are_clearly_there(expression):
    ways = PROTOTYPES[expression]
    shown = set()
    for sample in samples(expression):
        fitting = [
            i
            for i, way in enumerate(ways)
            if all(sample[j] >= MINIMUM_DEFINING for n in way.defining for j in places(n))
        ]
        assert fitting
        shown.update(fitting)
    assert shown == set(range(len(ways))), "each way to show the expression occurs"


def test_neutral_faces_hardly_move():
    assert samples(Expression.NEUTRAL).max() <= NOISE < 0.1


def test_contempt_is_on_one_side_and_happiness_on_both():
    left, right = (column(samples(Expression.CONTEMPT), f"{side} Lip Corner Pull") for side in ("Left", "Right"))
    assert (np.maximum(left, right) >= 0.5).all()
    assert (np.minimum(left, right) < 0.1).all()
    assert 0.2 < (left > right).mean() < 0.8
    left, right = (column(samples(Expression.HAPPINESS), f"{side} Lip Corner Pull") for side in ("Left", "Right"))
    assert (np.minimum(left, right) >= 0.35).all()
    assert (left != right).any()


@pytest.mark.parametrize(
    ("expression", "facs"),
    [
        (Expression.HAPPINESS, {12}),
        (Expression.SADNESS, {1, 4}),
        (Expression.SURPRISE, {1, 2, 5, 26}),
        (Expression.FEAR, {1, 2, 4, 5, 20, 26}),
        (Expression.DISGUST, {9}),
        (Expression.ANGER, {4, 5}),
    ],
)
def test_prototypes_hold_the_units_of_the_literature(expression, facs):
    for way in PROTOTYPES[expression]:
        moved = {number for name in way.defining for place in places(name) for number in FEAFA[place].facs}
        assert facs <= moved


def test_every_unit_is_used_by_some_expression():
    used = {
        place
        for ways in PROTOTYPES.values()
        for way in ways
        for name in (*way.defining, *way.optional, *way.one_sided)
        for place in places(name)
    }
    assert used == set(range(24))
