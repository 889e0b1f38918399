"""The offline judge on real texts: what is taken out or turned round lowers its own score, and no other."""

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from math import ceil
from statistics import mean

import pytest

from explllm.core.action_units import FEAFA
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought, mirror_text
from explllm.explanations.grounding import claims
from explllm.explanations.verdict import verdict
from explllm.metrics.exp_cot_score import Judgment
from explllm.metrics.judges.rules import OfflineJudge

PARTS = ("key_observations", "interpretation", "conclusion")
compare = OfflineJudge().compare


@pytest.fixture(scope="module")
def records(reference_data):
    """The 600 real chains of thought, parsed, with their labels."""
    rows = json.loads((reference_data / "rafdb" / "rafdb_cot_first600.json").read_text())
    return [(ChainOfThought.parse(row["description"]), Expression.parse(row["emo"])) for row in rows]


def claimed(text):
    """What is claimed present, as a bag: units and the words' ranges."""
    return Counter((claim.unit, claim.low, claim.high) for claim in claims(text) if claim.present)


def changed(cot, **sections):
    """The text with other sections; an empty one goes with its title."""
    return ChainOfThought.from_sections(*({part: getattr(cot, part) for part in PARTS} | sections).values()).text


def only(judgment, part):
    """Whether no other part than this one is lowered."""
    return all(getattr(judgment, other) == 5 for other in PARTS if other != part)


def test_a_text_against_itself_and_others(records):
    assert all(compare(cot.text, cot.text) == Judgment(5, 5, 5) for cot, _ in records)
    by_label = defaultdict(list)
    for cot, label in records:
        by_label[label].append(cot.text)
    labels = sorted(by_label)
    for place, label in enumerate(labels):
        texts, others = by_label[label], by_label[labels[place - 1]]
        same = mean(compare(texts[number - 1], text).score for number, text in enumerate(texts))
        apart = mean(compare(others[number % len(others)], text).score for number, text in enumerate(texts))
        assert apart < 0.25 < 0.5 < same < 0.9, label  # measured: 0.09 to 0.14, and 0.59 to 0.73


def test_who_names_or_denies_every_expression_is_right_with_none(records):
    denied = f"There is no {', no '.join(str(label).lower() for label in Expression)}."
    interpretations = []
    for cot, label in records:
        # The right one first: among equals that is the one which a verdict takes.
        names = [str(name).lower() for name in (label, *(other for other in Expression if other != label))]
        listed = f"The expression is {', '.join(names[:-1])} and {names[-1]}."
        found = compare(changed(cot, conclusion=listed), cot.text)
        assert found.conclusion == 0 and only(found, "conclusion")
        found = compare(changed(cot, interpretation=denied, conclusion=denied), cot.text)
        assert found.conclusion == 0
        interpretations.append(found.interpretation)
    # Alike only where the reference's own interpretation names none.
    assert set(interpretations) == {0, 5} and mean(interpretations) < 0.3  # measured: 0.19


def test_left_for_right(records):
    """Wherever swapping the sides changes what is claimed, it costs the observations, and never the conclusion."""
    swapped, scores = 0, []
    for cot, _ in records:
        key = mirror_text(cot.key_observations)
        if claimed(key) != claimed(cot.key_observations):
            swapped += 1
            found = compare(changed(cot, key_observations=key), cot.text)
            assert found.key_observations < 5 and found.conclusion == 5, key
            scores.append(found.score)
    assert swapped == 201  # of 264 texts that name a side; most others say the same of both
    assert mean(scores) <= 0.8  # measured: 0.794


OPPOSITES = {
    **dict.fromkeys(("slight", "subtle", "mild", "minimal", "faint", "minor", "moderate"), "strong"),
    **dict.fromkeys(("slightly", "subtly", "mildly", "minimally", "faintly", "moderately"), "strongly"),
    **dict.fromkeys(("strong", "significant", "pronounced", "marked", "notable", "noticeable", "prominent"), "slight"),
    **dict.fromkeys(("strongly", "significantly", "markedly", "notably", "noticeably", "prominently"), "slightly"),
}


def deny(sentence):
    return f"It is not true that {sentence[0].lower()}{sentence[1:]}"


def invert(sentence):
    return re.sub(r"[a-z]+", lambda word: OPPOSITES.get(word[0], word[0]), sentence)


@pytest.mark.parametrize(
    ("change", "most"), [(deny, 0.5), (invert, 0.75)], ids=["it is not true that", "inverted intensities"]
)
def test_more_changed_sentences_score_less(records, change, most):
    """A denied or inverted text scores low, and the more sentences of the observations are changed, the lower."""
    means = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        scores = []
        for cot, _ in records[::2]:
            sentences = re.split(r"(?<=[.!?])\s+", cot.key_observations)
            count = round(share * len(sentences))
            key = " ".join([*map(change, sentences[:count]), *sentences[count:]])
            found = compare(changed(cot, key_observations=key), cot.text)
            assert found.conclusion == 5
            scores.append(found.score)
        means.append(mean(scores))
    assert means[0] == 1 and means[-1] <= most  # measured: 0.35 and 0.58
    assert all(after < before - 0.02 for before, after in pairwise(means))


def test_other_texts_of_the_same_label_score_low(records):
    by_label = defaultdict(list)
    for cot, label in records:
        by_label[label].append(cot.text)
    shuffled = [compare(texts[i - 1], text).score for texts in by_label.values() for i, text in enumerate(texts)]
    assert mean(shuffled) <= 0.75  # measured: 0.69


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("title", [True, False], ids=["with its title", "the title stays"])
def test_a_section_removed(records, part, title):
    for cot, _ in records:
        text = changed(cot, **{part: ""}) if title else cot.text.replace(getattr(cot, part), "")
        found = compare(text, cot.text)
        assert getattr(found, part) == 0 and only(found, part), text


def test_a_conclusion_turned_round(records):
    """The conclusion of a text of another label, which it names, in the place of a text's own."""
    plain = [(cot, label) for cot, label in records if str(label).lower() in cot.conclusion]
    for place, (cot, label) in enumerate(records):
        own = (label, verdict(cot.conclusion))
        other = next(other for other, its in plain[place % len(plain) :] + plain if its not in own)
        found = compare(changed(cot, conclusion=other.conclusion), cot.text)
        assert found.conclusion == 0 and only(found, "conclusion"), other.conclusion


def test_units_replaced_one_sentence_after_the_other(records):
    """Each sentence of the key observations that gives way to units which the face lacks costs more.

    So a quarter, a half and all of them cost more and more.
    """
    texts = shares = 0
    for cot, _ in records:
        sentences = list(dict.fromkeys(claim.sentence for claim in claims(cot.key_observations) if claim.present))
        own = {claim.unit for claim in claims(cot.key_observations)}
        # The other side of a claimed unit would contradict the text, which costs the interpretation too.
        foreign = [unit.name for i, unit in enumerate(FEAFA) if i not in own and unit.mirror not in own]
        scores, key = [5.0], cot.key_observations
        # The last first: a sentence may speak of what stands before it.
        for sentence, name in zip(reversed(sentences), foreign, strict=False):
            key = key.replace(sentence, f"The {name.lower()} is moderate.")
            found = compare(changed(cot, key_observations=key), cot.text)
            assert only(found, "key_observations")
            scores.append(found.key_observations)
        assert all(after < before or before == 0 for before, after in pairwise(scores)), cot.text
        if len(scores) > len(sentences) > 3:
            quarter, half, whole = (scores[ceil(share * len(sentences))] for share in (0.25, 0.5, 1))
            assert 5 > quarter > half > whole == 0, cot.text
            shares += 1
        texts += len(scores) > 1
    assert texts > 590 and shares > 50
