"""The local checks: each fault is found, and a sound text has none."""

import pytest

from explllm.chat.offline import OfflineWriter
from explllm.core.action_units import NAMES
from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.expressions import Expression
from explllm.engine.checks import description_problems, form_problems, names, pair_problems
from explllm.engine.des2exp import read_expression
from explllm.engine.refinement import read_cot
from explllm.engine.verification import read_verdict

UNITS = [0.0] * 24
UNITS[NAMES.index("Left Brow Lower")] = UNITS[NAMES.index("Right Brow Lower")] = 0.5
UNITS[NAMES.index("Left Lip Corner Stretch")] = 0.4
KEY = "Both brows are markedly lowered, and the left lip corner is moderately stretched."
MIDDLE = "The lowered brows point to irritation."
END = "The face shows an expression of anger."


def problems(key=KEY, interpretation=MIDDLE, conclusion=END, expression=Expression.ANGER, **settings):
    return pair_problems(ChainOfThought.of(key, interpretation, conclusion), UNITS, expression, **settings)


def test_a_sound_text_has_none():
    assert problems() == []
    written = OfflineWriter().write(UNITS, Expression.ANGER)
    assert pair_problems(written, UNITS, Expression.ANGER) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"conclusion": ""}, "the section Conclusion is missing"),
        ({"interpretation": MIDDLE + " So it is." * 50}, "words instead of at most 130"),
        ({"key": KEY.replace("Both brows", "Both brows (AU 5 and AU 6)")}, "number of an action unit (AU 5)"),
        ({"key": KEY.replace("Both brows", "Both brows (action unit 5)")}, "number of an action unit (action unit 5)"),
        ({"interpretation": "His lowered brows point to irritation."}, "personal pronoun (His)"),
        ({"interpretation": "We see irritation in the lowered brows."}, "personal pronoun (We)"),
        ({"conclusion": "The face shows an expression of fear."}, "arrives at Fear, not at Anger"),
        ({"conclusion": "The face shows a strong emotion."}, "does not name Anger"),
        ({"conclusion": "The face shows irritation."}, "does not name Anger"),
        ({"key": "Both brows are markedly lowered."}, "left lip corner stretch (0.40) is not mentioned"),
        ({"key": KEY + " The nose is wrinkled."}, "nose wrinkle is claimed, but its intensity is 0"),
        ({"key": KEY.replace("the left lip", "the right lip")}, "it is the other side that moves"),
    ],
)
def test_each_fault_is_named(changes, found):
    told = problems(**changes)
    assert any(found in problem for problem in told), told


def test_limits_can_be_set():
    assert any("at most 20" in problem for problem in problems(max_words=20))
    quiet = problems(key="Both brows are markedly lowered.", strong=0.45)
    assert quiet == []


def test_denials_are_no_claims():
    assert description_problems(KEY + " The nose is not wrinkled and the jaw stays closed.", UNITS) == []


def test_words_that_are_no_pronouns():
    assert form_problems(ChainOfThought.parse("Its outline and the whole of it; the US; Iris; one's brows.")) in (
        [],
        ["it uses a personal pronoun (US)"],
    )


def test_names():
    assert names("This is an angry face.", Expression.ANGER)
    assert names("A sense of ANGER.", Expression.ANGER)
    assert not names("A sense of danger.", Expression.ANGER)
    assert not names("irritation", Expression.ANGER)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Anger", Expression.ANGER),
        (" 'anger'. ", Expression.ANGER),
        ("**Happy**", Expression.HAPPINESS),
        ('{"expression": "Fear"}', Expression.FEAR),
        ('"Fear"', Expression.FEAR),
        ("Anger or Fear", None),
        ("The expression is Anger", None),
        ("", None),
        ('{"label": "Fear"}', None),
        ("7", None),
    ],
)
def test_reading_a_label(text, label):
    assert read_expression(text) is label


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("Correct", True), ("incorrect.", False), ('{"verdict": "Correct"}', True), ("Correct, mostly", None), ("", None)],
)
def test_reading_a_verdict(text, verdict):
    assert read_verdict(text) is verdict


def test_reading_a_chain_of_thought():
    structured = '{"key_observations": "a", "overall_emotional_interpretation": "b", "conclusion": "c"}'
    assert read_cot(structured) == ChainOfThought.of("a", "b", "c")
    assert read_cot('{"key_observations": "a", "conclusion": "c"}') is None
    plain = "### Key Observations\nThe brows.\n### Overall Emotional Interpretation\nA mood.\n### Conclusion\nAnger."
    assert read_cot(plain) == ChainOfThought.of("The brows.", "A mood.", "Anger.")
    assert read_cot("I cannot help with that.") is None
