"""Texts that contradict themselves."""

import json

import pytest

from explllm.core.action_units import NAMES
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.consistency import check_consistency

NOSE = NAMES.index("Nose Wrinkle")


def check(observations, interpretation="It is calm."):
    return check_consistency(ChainOfThought.from_sections(observations, interpretation, "It is neutral."))


@pytest.mark.parametrize(
    ("observations", "interpretation", "contradicted", "denied", "unaffirmed"),
    [
        ("The nose is strongly wrinkled. The nose is not wrinkled.", "It is calm.", [NOSE], [], []),
        ("The nose is not wrinkled.", "The wrinkled nose shows disgust.", [], [NOSE], [NOSE]),
        ("The jaw is dropped.", "The wrinkled nose shows disgust.", [], [], [NOSE]),
        ("The nose is strongly wrinkled.", "The wrinkled nose shows disgust.", [], [], []),
        # A hedge is compatible with a denial.
        ("The nose is minimally wrinkled. The nose is not wrinkled.", "It is calm.", [], [], []),
        # One side supports a brow without a side.
        (
            "The left brow is lowered, while the right brow remains neutral.",
            "The lowered brow shows worry.",
            [],
            [],
            [],
        ),
    ],
)
def test_contradictions(observations, interpretation, contradicted, denied, unaffirmed):
    found = check(observations, interpretation)
    assert (found.affirmed_and_denied, found.denied, found.unaffirmed) == (contradicted, denied, unaffirmed)
    assert found.contradicts_itself == bool(contradicted or denied)
    assert found.contradictions == sorted({*contradicted, *denied})


def test_real_texts_rarely_contradict_themselves(reference_data):
    rows = json.loads((reference_data / "rafdb" / "rafdb_cot_first600.json").read_text())
    found = [check_consistency(ChainOfThought.parse(row["description"])) for row in rows]
    assert sum(one.contradicts_itself for one in found) <= 6  # measured: 6 of 600
    assert sum(bool(one.unaffirmed) for one in found) < 200  # measured: 171
