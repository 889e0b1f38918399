"""The review of one explanation: claims against measured units, and the text against itself."""

import json

import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.review import review_explanation
from explllm.explanations.rule_writer import RuleWriter


def review(observations, units=None, label=Expression.HAPPINESS, interpretation="It is calm.", conclusion="Happiness."):
    measured = {} if units is None else units
    values = None if units is None else [measured.get(name, 0.0) for name in NAMES]
    return review_explanation(ChainOfThought.from_sections(observations, interpretation, conclusion), label, values)


@pytest.mark.parametrize(
    ("text", "units", "statuses"),
    [
        ("The jaw is dropped.", {"Jaw Drop": 0.3}, ["agrees"]),
        ("The jaw is dropped.", {"Jaw Drop": 0.01}, ["contradicts"]),
        ("The jaw is dropped.", {"Jaw Drop": None}, ["not measured"]),
        ("The nose is not wrinkled.", {"Nose Wrinkle": 0.1}, ["agrees"]),
        ("The nose is not wrinkled.", {"Nose Wrinkle": 0.5}, ["contradicts"]),
        ("The nose is not wrinkled.", {"Nose Wrinkle": None}, ["not measured"]),
        ("The nose is barely wrinkled.", {}, ["agrees"]),
        ("Both brows are lowered.", {"Left Brow Lower": 0.4}, ["agrees", "contradicts"]),
        ("One brow is lowered.", {"Right Brow Lower": 0.4}, ["agrees", "agrees"]),
        # The same claim twice counts once.
        ("The jaw is dropped. Again, the jaw is dropped.", {"Jaw Drop": 0.3}, ["agrees"]),
    ],
)
def test_claims(text, units, statuses):
    assert [claim.status for claim in review(text, units).claims] == statuses


def test_without_measurements_nothing_is_checked():
    found = review("The jaw is dropped.")
    assert found.summary == "claims: 0 agree, 0 contradict, 1 not measured"
    assert found.claims[0].phrase == "Jaw Drop (AU26)"


def test_the_smiling_astronaut():
    """A smile of 0.91 that the text does not see: a text about lowered brows and anger."""
    smile = {"Left Lip Corner Pull": 0.91, "Right Lip Corner Pull": 0.91}
    text = "The brows are drawn down. The lip corners are not pulled up."
    found = review(text, smile, Expression.ANGER, conclusion="Surprise.")
    assert found.count("contradicts") == 4  # both brows, both lip corners
    assert found.warnings == ["The model recognized Anger, but the text's conclusion names Surprise."]


def test_warnings():
    contradictory = review("The nose is strongly wrinkled. The nose is not wrinkled.")
    assert contradictory.warnings == ["The text contradicts itself about: Nose Wrinkle (AU9)."]
    assert review("The jaw is dropped.").warnings == []
    assert review("The jaw is dropped.", interpretation="", conclusion="").warnings == [
        "The model recognized Happiness, but the text's conclusion names no expression."
    ]


def test_true_texts_pass(reference_data):
    """Texts that rules write from the measured units agree with them; GPT-4o's mostly do."""
    rows = json.loads((reference_data / "rafdb" / "rafdb_cot_first600.json").read_text())[:100]
    statuses = {"rules": [], "gpt": []}
    for row in rows:
        units = json.loads(row["au"]) if isinstance(row["au"], str) else row["au"]
        label = Expression.parse(row["emo"])
        for kind, cot in (
            ("rules", RuleWriter().write(units, label)),
            ("gpt", ChainOfThought.parse(row["description"])),
        ):
            found = review_explanation(cot, label, units)
            statuses[kind] += [claim.status for claim in found.claims]
            assert kind == "gpt" or found.warnings == []
    shares = {kind: values.count("agrees") / len(values) for kind, values in statuses.items()}
    assert shares["rules"] > 0.99 and shares["gpt"] > 0.85
