"""Scope: other people, other times, hypothetical faces, negated clauses, contrasts, questions and quotations."""

import time
from collections import defaultdict
from pathlib import Path

import pytest

from explllm.core.action_units import FEAFA, NAMES
from explllm.explanations.claims import claims
from explllm.explanations.grounding import ground

CODES = {
    "BR": "Brow Raise",
    "BL": "Brow Lower",
    "LR": "Lid Raise",
    "EC": "Eye Close",
    "LP": "Lip Corner Pull",
    "ST": "Lip Corner Stretch",
    "JD": "Jaw Drop",
    "SU": "Upper Lip Suck",
    "SL": "Lower Lip Suck",
    "UR": "Upper Lip Raise",
    "LD": "Lower Lip Depress",
    "CH": "Chin Raise",
    "PK": "Lip Pucker",
    "CP": "Cheeks Puff",
    "NW": "Nose Wrinkle",
    "JT": "Jaw Thrust",
}


def units_of(codes):
    """Return the units of codes such as "BR lEC": both brows raised, the left eye closed."""
    units = set()
    for code in codes.replace("-", "").split():
        sides = {"l": ("left",), "r": ("right",)}.get(code[0], ("left", "right", None))
        units |= {
            unit.number - 1 for unit in FEAFA if unit.name.endswith(CODES[code[-2:]]) and unit.side in (*sides, None)
        }
    return units


def read_sentences(name):
    """Yield the kind of each sentence, the sentence, and the units that it claims."""
    kind = ""
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            sentence, codes = line.rsplit(" | ", 1)
            yield kind, sentence, units_of(codes)


@pytest.mark.parametrize(
    ("name", "least"), [("misleading.txt", 150), ("misleading_held_out.txt", 140), ("misleading_varied.txt", 600)]
)
def test_misleading_sentences_are_read_right(name, least):
    right = defaultdict(list)
    for kind, sentence, units in read_sentences(name):
        right[kind].append({claim.unit for claim in claims(sentence) if claim.present} == units)
    results = [correct for kind in right.values() for correct in kind]
    assert len(right) >= 10 and len(results) >= least
    assert sum(results) / len(results) >= 0.95
    # No kind is neglected, and the true claims among them are found.
    assert all(sum(kind) / len(kind) >= 0.8 for kind in right.values())


@pytest.mark.parametrize(
    "prefix",
    [
        "It is not true that ",
        "There is no evidence that ",
        "Nobody could claim that ",
        "In the previous photograph, ",
        "The man next to this person says that ",
        "One might expect that ",
        "It is unclear whether ",
    ],
)
def test_a_prefix_takes_back_what_real_texts_claim(real_texts, prefix):
    before = after = 0
    for text, units in real_texts[:150]:
        sentences = [sentence for sentence in text.replace("\n", " ").split(". ") if sentence]
        changed = ". ".join(prefix + sentence[0].lower() + sentence[1:] for sentence in sentences)
        before += ground(text, units).supported_count
        after += ground(changed, units).supported_count
    assert after < 0.2 * before


def test_real_texts_read_fast(real_texts):
    texts, fastest = [text for text, _ in real_texts[:200]], float("inf")
    for _ in range(3):  # beside other work, CPU time grows too
        start = time.process_time()
        for text in texts:
            claims(text)
        fastest = min(fastest, (time.process_time() - start) / len(texts))
    # 3,068 texts in 10 seconds of one core, that is, 3.3 ms each. Measured: 1.4.
    assert fastest < 10 / 3068


def test_a_denied_denial_is_a_claim():
    (claim,) = claims("It is not true that the jaw is not dropped.")
    assert (NAMES[claim.unit], claim.present) == ("Jaw Drop", True)
    (claim,) = claims("It is not true that the jaw is strongly dropped.")
    assert (NAMES[claim.unit], claim.present, claim.intensity) == ("Jaw Drop", False, None)
