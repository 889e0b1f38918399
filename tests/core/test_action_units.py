"""The 24 FEAFA action units: order, sides, FACS numbers, intensity words."""

import math

import pytest

from explllm.core.action_units import (
    BP4D_12,
    DISFA_8,
    FEAFA,
    INTENSITY_WORDS,
    NAMES,
    check_action_units,
    intensity_word,
    mirror_action_units,
)
from explllm.core.errors import InputError


def test_numbers_and_order():
    assert [unit.number for unit in FEAFA] == list(range(1, 25))
    assert NAMES[0] == "Left Eye Close"
    assert NAMES[8] == "Jaw Drop"
    assert NAMES[23] == "Nose Wrinkle"
    assert len(set(NAMES)) == 24


def test_sides_and_mirrors():
    sided = [unit for unit in FEAFA if unit.side]
    assert len(sided) == 14
    for place, unit in enumerate(FEAFA):
        other = FEAFA[unit.mirror]
        assert other.mirror == place
        assert other.facs == unit.facs
        if unit.side is None:
            assert other is unit
        else:
            assert {unit.side, other.side} == {"left", "right"}
            assert unit.name.replace(unit.side.title(), other.side.title()) == other.name


def test_feafa_numbers_are_not_facs_numbers():
    jaw_drop = FEAFA[NAMES.index("Jaw Drop")]
    assert (jaw_drop.number, jaw_drop.facs) == (9, (26,))
    facs = {unit.name: unit.facs for unit in FEAFA}
    assert facs["Left Lip Corner Pull"] == (12,)
    assert facs["Right Brow Lower"] == (4,)
    assert facs["Nose Wrinkle"] == (9,)
    assert facs["Left Brow Raise"] == (1, 2)


def test_evaluation_sets():
    assert BP4D_12 == (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
    assert DISFA_8 == (1, 2, 4, 6, 9, 12, 25, 26)


def test_mirror_swaps_every_side_and_is_its_own_inverse():
    values = [place / 100 for place in range(24)]
    mirrored = mirror_action_units(values)
    assert mirrored[:2] == [0.01, 0.0]
    assert mirrored[NAMES.index("Jaw Slide Left")] == values[NAMES.index("Jaw Slide Right")]
    assert mirrored[NAMES.index("Jaw Drop")] == values[NAMES.index("Jaw Drop")]
    assert mirror_action_units(mirrored) == values


def test_mirror_wants_all_units():
    with pytest.raises(InputError, match="expected 24 action units, got 3"):
        mirror_action_units([0.0, 0.1, 0.2])


def test_intensity_words_follow_the_table():
    assert [intensity_word(x) for x in (0.0, 0.049, 0.05, 0.3, 0.5, 0.7, 0.9, 1.0)] == [
        "absent",
        "absent",
        "slight",
        "moderate",
        "marked",
        "strong",
        "extreme",
        "extreme",
    ]
    bounds = [bound for bound, _ in INTENSITY_WORDS]
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("x", [-0.01, 1.01, math.nan, math.inf])
def test_intensity_word_refuses_what_is_no_intensity(x):
    with pytest.raises(InputError):
        intensity_word(x)


def test_check_returns_floats():
    assert check_action_units(["0.5", *[0] * 23]) == [0.5, *[0.0] * 23]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0] * 23, "expected 24 action units, got 23"),
        ([0.0] * 23 + [1.2], "intensity 1.2 of Nose Wrinkle"),
        ([math.nan] + [0.0] * 23, "intensity nan of Left Eye Close"),
        (["high"] + [0.0] * 23, "not a list of numbers"),
        (None, "not a list of numbers"),
    ],
)
def test_check_says_what_is_wrong_and_where(values, message):
    with pytest.raises(InputError, match=message) as caught:
        check_action_units(values, "faces.csv, row 3")
    assert caught.value.where == "faces.csv, row 3"
