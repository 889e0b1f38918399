"""The table from FEAFA's units to FACS's, written out a second time."""

import pytest

from explllm.core.action_units import BP4D_12, DISFA_8, FEAFA
from explllm.core.errors import ConfigError
from explllm.core.facs import FACS, FACS_SETS, facs_set, unmapped_units

# FACS number -> FEAFA's own numbers, from the two manuals' names.
EXPECTED = {1: {7, 8}, 2: {7, 8}, 4: {5, 6}, 9: {24}, 10: {19}, 12: {12, 13}, 17: {21}, 26: {9}}


def test_the_table():
    assert {number: {place + 1 for place in unit.indices} for number, unit in FACS.items() if unit.feafa} == EXPECTED
    assert set(FACS) == {*DISFA_8, *BP4D_12}


def test_it_says_what_the_units_themselves_say():
    for number, unit in FACS.items():
        assert unit.feafa == tuple(feafa.name for feafa in FEAFA if number in feafa.facs)
        assert unit.feafa or unit.remark, f"no reason why AU{number} is missing"


def test_the_sets_and_what_they_miss():
    assert FACS_SETS == {"disfa8": (1, 2, 4, 6, 9, 12, 25, 26), "bp4d12": (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)}
    assert [unit.number for unit in unmapped_units(facs_set("disfa8"))] == [6, 25]
    assert [unit.number for unit in unmapped_units(facs_set("bp4d12"))] == [6, 7, 14, 15, 23, 24]
    with pytest.raises(ConfigError, match="unknown set of FACS units 'ck'"):
        facs_set("ck")
