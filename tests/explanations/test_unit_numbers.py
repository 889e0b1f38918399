"""FACS numbers in free text: every way of writing a list, and denials that reach no further than their clause."""

import pytest

from explllm.explanations.unit_numbers import stated_units


@pytest.mark.parametrize(
    ("text", "active", "denied"),
    [
        ("AU1, AU2, AU4, AU6, AU12, AU25, AU26", {1, 2, 4, 6, 12, 25, 26}, set()),
        ("AUs 6, 12, and 14; action units 1 and 2; AU: 4", {1, 2, 4, 6, 12, 14}, set()),
        ("AU6+12, AU06, AU 7, au17, AU-15, AU23R, AU24L, 微笑AU10", {6, 7, 10, 12, 15, 17, 23, 24}, set()),
        ("AU6 and 2 others, AU9.5, 14, 15, rendez-vous au 12", {6}, set()),
        ("Active: AU6 (0.7), AU7 (0.5), AU12 (0.8), AU14 (0.0), AU15: 0.", {6, 7, 12}, {14, 15}),
        ('{"AU6": 0, "AU12": 1, "AU10": 10}', {12, 10}, {6}),
        ('{"AU1": true, "AU2": false}. AU4: False, AU6: True', {1, 6}, {2, 4}),
        ("On a scale of 0 to 5, AU6 is 3", {6}, set()),
        ("AU6 and AU14 are active, AU15 is not.", {6, 14}, {15}),
        ("AU6, AU12 and AU14 are not active. AU4 is absent", set(), {4, 6, 12, 14}),
        ("It is clear that AU6, AU12 and AU14 aren't active, while AU1 is.", {1}, {6, 12, 14}),
        ("AU6 and AU12, but no AU4 or AU9; without AU15, AU17", {6, 12}, {4, 9, 15, 17}),
        ("No AU4, AU9, or AU15 is visible.\nNone of AU1, AU2 and AU7 are active.", set(), {1, 2, 4, 7, 9, 15}),
        ("There is no AU4, and AU6 and AU12 are present; AU1 without AU2, not AU7", {1, 6, 12}, {2, 4, 7}),
        ("AU6, AU12, no others. AU1, not active, AU2: yes, AU4: no", {2, 6, 12}, {1, 4}),
        ("**Not active:**\n\n- AU4\n- AU6\n\n**Active:**\n- AU12\n- AU14", {12, 14}, {4, 6}),
        ("AU12 is not active at first. Later AU12 is active.", {12}, set()),
        ("AU6 with no sign of AU12 and without any lip pressor (AU24)", {6}, {12, 24}),
        # Ambiguous: a denial between units that does not name the next one denies the clause.
        ("AU15 is not active in contrast to AU6", set(), {6, 15}),
        ("AU1 " + "not AU2 nor " * 5000 + "AU4", {1}, {2, 4}),
        ("No action unit is active.", set(), set()),
    ],
)
def test_numbers(text, active, denied):
    stated = stated_units(text)
    assert {number for number, on in stated.items() if on} == active
    assert {number for number, on in stated.items() if not on} == denied
