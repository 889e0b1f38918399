"""The local checks: each fault is found, and a sound text has none."""

import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.engine.des2exp import read_expression
from explllm.engine.refinement import read_cot
from explllm.engine.verification import read_verdict
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.checks import description_problems, form_problems, names_expression, pair_problems
from explllm.explanations.rule_writer import RuleWriter
from explllm.llm.reading import strip_reasoning

UNITS = [0.0] * 24
UNITS[NAMES.index("Left Brow Lower")] = UNITS[NAMES.index("Right Brow Lower")] = 0.5
UNITS[NAMES.index("Left Lip Corner Stretch")] = 0.4
KEY = "Both brows are markedly lowered, and the left lip corner is moderately stretched."
MIDDLE = "The lowered brows point to irritation."
END = "The face shows an expression of anger."


def problems(key=KEY, interpretation=MIDDLE, conclusion=END, expression=Expression.ANGER, **settings):
    return pair_problems(ChainOfThought.from_sections(key, interpretation, conclusion), UNITS, expression, **settings)


def test_a_sound_text_has_none():
    assert problems() == []
    written = RuleWriter().write(UNITS, Expression.ANGER)
    assert pair_problems(written, UNITS, Expression.ANGER) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"conclusion": ""}, "the section Conclusion is missing"),
        ({"interpretation": MIDDLE + " So it is." * 50}, "words, more than the maximum of 130"),
        ({"key": KEY.replace("Both brows", "Both brows (AU 5 and AU 6)")}, "number of an action unit (AU 5)"),
        ({"key": KEY.replace("Both brows", "Both brows (action unit 5)")}, "number of an action unit (action unit 5)"),
        ({"interpretation": "His lowered brows point to irritation."}, "personal pronoun (His)"),
        ({"interpretation": "We see irritation in the lowered brows."}, "personal pronoun (We)"),
        ({"conclusion": "The face shows an expression of fear."}, "names Fear, not Anger"),
        ({"conclusion": "The face shows a strong emotion."}, "does not name Anger"),
        ({"conclusion": "The face shows irritation."}, "does not name Anger"),
        ({"key": KEY + "\n\n**Conclusion:** It is anger."}, "contains the title of another section"),
        ({"key": "Both brows are markedly lowered."}, "left lip corner stretch (0.40) is not mentioned"),
        ({"key": KEY + " The nose is wrinkled."}, "nose wrinkle is claimed, but its intensity is 0"),
        ({"key": KEY.replace("the left lip", "the right lip")}, "only the other side moves"),
    ],
)
def test_each_fault_is_named(changes, found):
    told = problems(**changes)
    assert any(found in problem for problem in told), told


def test_limits_can_be_set():
    assert any("maximum of 20" in problem for problem in problems(max_words=20))
    quiet = problems(key="Both brows are markedly lowered.", strong=0.45)
    assert quiet == []


def test_denials_are_no_claims():
    assert description_problems(KEY + " The nose is not wrinkled and the jaw stays closed.", UNITS) == []


def test_words_that_are_no_pronouns():
    text = "Its outline and the whole of it; the US; Iris; one's brows; (i) brows, (ii) lips; grade I. "
    assert form_problems(ChainOfThought.parse(text + "Type I, i.e. faint.")) == []


@pytest.mark.parametrize(
    "text", ["This tells us of joy.", "Here I see joy.", "I'd say joy.", "i think joy.", "Our joy."]
)
def test_words_that_are_pronouns(text):
    assert "personal pronoun" in form_problems(ChainOfThought.parse(text))[0]


DEAD = ("Nose Wrinkle", "Cheeks Puff", "Right Lip Corner Stretch")
PARTLY = [None if name in DEAD else value for name, value in zip(NAMES, UNITS, strict=True)]


def test_units_that_were_not_measured_count_neither_way():
    text = KEY + " The nose is strongly wrinkled, and the cheeks are puffed."
    assert len(description_problems(text, UNITS)) == 2
    assert description_problems(text, PARTLY) == []
    # The stretch is on the left; whether the right has one too is not known.
    assert description_problems(KEY.replace("the left lip corner is", "the lip corners are"), PARTLY) == []
    assert "nose wrinkle" not in "".join(description_problems("", PARTLY))
    assert any("jaw drop is claimed" in problem for problem in description_problems(KEY + " The jaw drops.", PARTLY))


def test_the_offline_writer_says_nothing_of_units_that_were_not_measured():
    still = [None if name in DEAD else 0.0 for name in NAMES]
    written = [RuleWriter().write(still, Expression.NEUTRAL, seed=seed).text for seed in range(60)]
    assert not any("nose" in text or "cheek" in text or "stretch" in text for text in written)
    moving = [0.5 if name == "Nose Wrinkle" else 0.0 for name in NAMES]
    assert "nose" in RuleWriter().write(moving, Expression.NEUTRAL).text


def test_names():
    assert names_expression("This is an angry face.", Expression.ANGER)
    assert names_expression("A sense of ANGER.", Expression.ANGER)
    assert not names_expression("A sense of danger.", Expression.ANGER)
    assert not names_expression("irritation", Expression.ANGER)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Anger", Expression.ANGER),
        (" 'anger'. ", Expression.ANGER),
        ("**Happy**", Expression.HAPPINESS),
        ('{"expression": "Fear"}', Expression.FEAR),
        ('```json\n{"expression": "Fear"}\n```', Expression.FEAR),
        ('The label is {"expression": "Fear"}. It is not {"expression": "Anger"}.', Expression.FEAR),
        ('"Fear"', Expression.FEAR),
        ("<think>Is it Fear?\nNo.</think>\n\nAnger", Expression.ANGER),
        ("Is it Fear? No.</think>\nAnger", Expression.ANGER),
        ('<think>{"expression": "Fear"}</think>{"expression": "Anger"}', Expression.ANGER),
        ("<think>Is it Fear? Or", None),
        ("Anger or Fear", None),
        ("The expression is Anger", None),
        ("", None),
        ('{"label": "Fear"}', None),
        ('{"expression": "Fear"', None),
        ("7", None),
    ],
)
def test_reading_a_label(text, label):
    assert read_expression(strip_reasoning(text)) is label


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Correct", True),
        ("incorrect.", False),
        ('{"verdict": "Correct"}', True),
        ('```\n{"verdict": "Incorrect"}\n```', False),
        ("<think>Correct? Not quite.</think>Incorrect", False),
        ("Correct, mostly", None),
        ("", None),
    ],
)
def test_reading_a_verdict(text, verdict):
    assert read_verdict(strip_reasoning(text)) is verdict


def test_reading_a_chain_of_thought():
    structured = '{"key_observations": "a", "overall_emotional_interpretation": "b", "conclusion": "c"}'
    assert read_cot(structured) == ChainOfThought.from_sections("a", "b", "c")
    assert read_cot('{"key_observations": "a", "conclusion": "c"}') is None
    assert read_cot(structured.replace('"b"', '" "')) is None
    assert read_cot(f"Here it is:\n```json\n{structured}\n```\n") == read_cot(structured)
    lines = read_cot(structured.replace('"b"', '"Two\nlines."'))
    assert lines is not None and lines.sections[1] == "Two\nlines."
    titled = structured.replace('"a"', '"**Key Observations:** a"').replace('"c"', '"### Conclusion\\nc"')
    assert read_cot(titled) == read_cot(structured)
    assert read_cot(structured.replace('"c"', '"**Conclusion:**"')) is None
    plain = "### Key Observations\nThe brows.\n### Overall Emotional Interpretation\nA mood.\n### Conclusion\nAnger."
    assert read_cot(plain) == ChainOfThought.from_sections("The brows.", "A mood.", "Anger.")
    assert read_cot(strip_reasoning("<think>### Conclusion\nFear.</think>" + plain)) == read_cot(plain)
    assert read_cot("I cannot help with that.") is None
