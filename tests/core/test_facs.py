"""The table from FEAFA's units to FACS's, written out a second time."""

import pytest

from explllm.core.action_units import BP4D_12, DISFA_8, FACS_CODES, FEAFA, with_facs
from explllm.core.errors import ConfigError
from explllm.core.facs import FACS, FACS_SETS, facs_set, unmapped_units

# FACS number -> FEAFA's own numbers, from the two manuals' names.
EXPECTED = {1: {7, 8}, 2: {7, 8}, 4: {5, 6}, 9: {24}, 10: {19}, 12: {12, 13}, 17: {21}, 26: {9}}


def test_the_table():
    assert {number: {place + 1 for place in unit.indices} for number, unit in FACS.items() if unit.feafa} == EXPECTED
    assert set(FACS) == {*DISFA_8, *BP4D_12}


def test_units_without_a_counterpart_have_a_reason():
    for number, unit in FACS.items():
        assert unit.feafa or unit.remark, f"no reason why AU{number} is missing"


def test_codes(repository):
    """Those of the FACS manual; the glossary's table is that of the code."""
    assert FACS_CODES["Left Lip Corner Pull"] == "AU12" and FACS_CODES["Right Brow Raise"] == "AU1+2"
    assert {code for code in FACS_CODES.values() if code.startswith("AD")} == {"AD29", "AD30", "AD34"}
    assert with_facs("Jaw Drop") == "Jaw Drop (AU26)"
    glossary = (repository / "docs/pages/glossary.md").read_text(encoding="utf-8")
    rows = [f"| {unit.number} | {unit.name} | {unit.facs_code} |" for unit in FEAFA]
    assert "\n".join(rows) in glossary


def test_the_sets_and_what_they_miss():
    assert FACS_SETS == {"disfa8": (1, 2, 4, 6, 9, 12, 25, 26), "bp4d12": (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)}
    assert [unit.number for unit in unmapped_units(facs_set("disfa8"))] == [6, 25]
    assert [unit.number for unit in unmapped_units(facs_set("bp4d12"))] == [6, 7, 14, 15, 23, 24]
    with pytest.raises(ConfigError, match="unknown set of FACS units 'ck'"):
        facs_set("ck")
