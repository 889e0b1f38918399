"""The chain of thought: reading every variant of titles, checking, mirroring; agreement with real texts."""

import json
import random
import time

import pytest

from explllm.core.errors import ChainOfThoughtError
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import MAX_WORDS, TITLES, ChainOfThought, mirror_text

KEY = "Both brows are slightly lowered, and the left lip corner is strongly pulled up."
MIDDLE = "Together these movements suggest a pleased mood."
END = "In summary, the face shows happiness."
SECTIONS = (KEY, MIDDLE, END)


@pytest.fixture(scope="module")
def records(reference_data):
    """600 texts by GPT-4o from the released RAF-DB test list, with their labels."""
    return json.loads((reference_data / "rafdb/rafdb_cot_first600.json").read_text())


def _agreement(records):
    return sum(ChainOfThought.parse(record["description"]).expression == record["emo"] for record in records) / len(
        records
    )


def test_verdict_agrees_with_the_labels_of_real_texts(records):
    # Measured: 0.995 (597 of 600): 0.9967 on the even records, which were read when the rules were written, and 0.9933
    # on the odd ones, which were not. The even miss is a conclusion that says "a predominant expression of surprise"
    # under the label Disgust. The 600 hold no Neutral face and two of Fear: for those see test_verdict.py.
    assert _agreement(records) >= 0.97
    assert _agreement(records[::2]) >= 0.97
    assert _agreement(records[1::2]) >= 0.97


def test_real_texts_have_all_sections_and_nothing_is_lost(records):
    for record in records:
        cot = ChainOfThought.parse(record["description"])
        assert all(cot.sections), record["file_name"]
        assert cot.text == record["description"]
        kept = sum(len(section.split()) for section in cot.sections)
        assert 0 <= len(cot.text.split()) - kept <= 9  # the titles: six words, and three heading marks
        again = ChainOfThought.parse(cot.render())
        assert again.sections == cot.sections
        assert cot.mirrored().mirrored() == cot


def test_reading_a_real_text_takes_less_than_a_millisecond(records):
    texts = [record["description"] for record in records[:200]]
    fastest = float("inf")
    for _ in range(3):
        start = time.process_time()
        for text in texts:
            _ = ChainOfThought.parse(text).expression
        fastest = min(fastest, (time.process_time() - start) / len(texts))
    assert fastest < 1e-3  # 0.11 ms when measured


# {K}, {I}, {C} stand for the usual titles, {k}, {m}, {e} for the sections.
VARIANTS = {
    "bold, colon inside": "**{K}:** {k}\n\n**{I}:** {m}\n\n**{C}:** {e}",
    "bold, colon outside": "**{K}**: {k}\n\n**{I}**: {m}\n\n**{C}**: {e}",
    "bold, no colon": "**{K}**\n{k}\n\n**Emotional Interpretation**\n{m}\n\n**{C}**\n{e}",
    "heading": "### {K}\n{k}\n\n### {I}\n{m}\n\n### {C}\n{e}",
    "heading, bold, colon": "## **{K}:**\n\n{k}\n\n## **Interpretation:**\n\n{m}\n\n## **{C}:**\n\n{e}",
    "plain": "{K}: {k}\n\n{I}: {m}\n\n{C}: {e}",
    "plain, single lines": "Key observations:\n{k}\nOverall emotional interpretation:\n{m}\n{C}:\n{e}",
    "upper case": "KEY OBSERVATIONS: {k}\nOVERALL EMOTIONAL INTERPRETATION: {m}\nCONCLUSION: {e}",
    "numbered": "1. {K}: {k}\n2. {I}: {m}\n3. {C}: {e}",
    "numbered, bold": "1. **{K}:** {k}\n\n2. **Overall Interpretation:** {m}\n\n3. **{C}:** {e}",
    "bold around the number": "**1. {K}**: {k}\n**2. Interpretation**: {m}\n**3. {C}**: {e}",
    "bulleted": "- **{K}**: {k}\n- **{I}**: {m}\n- **{C}**: {e}",
    "dash": "{K} - {k}\n{I} — {m}\n{C} – {e}",
    "one line, bold": "**{K}:** {k} **{I}:** {m} **{C}:** {e}",
    "one line, plain": "{K}: {k} {I}: {m} {C}: {e}",
    "windows line ends": "**{K}:**\r\n{k}\r\n\r\n**Interpretation:**\r\n{m}\r\n\r\n**{C}:**\r\n{e}\r\n",
    "underscores, rules": "__{K}__\n{k}\n\n---\n\n__Interpretation__\n{m}\n\n---\n\n__{C}__\n{e}\n\n---",
    "full-width colon": "{K}：{k}\nInterpretation：{m}\n{C}：{e}",
    "preamble": "Here is the analysis.\n\n**{K}:** {k}\n\n**Interpretation:** {m}\n\n**{C}:** {e}",
    "final conclusion": "**Observations:** {k}\n\n**Interpretation:** {m}\n\n**Final {C}:** {e}",
    "other order": "**{C}:** {e}\n\n**{K}:** {k}\n\n**Interpretation:** {m}",
}
VARIANTS = {
    name: text.format(K=TITLES[0], I=TITLES[1], C=TITLES[2], k=KEY, m=MIDDLE, e=END) for name, text in VARIANTS.items()
}


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS.keys())
def test_titles_vary(text):
    cot = ChainOfThought.parse(text)
    assert cot.sections == SECTIONS
    assert cot.text == text
    assert cot.expression is Expression.HAPPINESS
    assert cot.check(Expression.HAPPINESS) == []


RECOVERED = {
    "no conclusion title, own paragraph": f"**Key Observations:** {KEY}\n\n**Interpretation:** {MIDDLE}\n\n{END}",
    "no conclusion title, same paragraph": f"**Key Observations:** {KEY}\n\n**Interpretation:** {MIDDLE} {END}",
    "no interpretation title": f"**Key Observations:** {KEY}\n\n{MIDDLE}\n\n**Conclusion:** {END}",
    "no key title": f"{KEY}\n\n**Overall Emotional Interpretation:** {MIDDLE}\n\n**Conclusion:** {END}",
    "no interpretation title, same paragraph": f"**Key Observations:** {KEY} {MIDDLE}\n\n**Conclusion:** {END}",
    "key title alone": f"**Key Observations:** {KEY}\n\n{MIDDLE}\n\n{END}",
    "no title": f"{KEY}\n\n{MIDDLE}\n\n{END}",
    "no title, two paragraphs": f"{KEY} {MIDDLE}\n\n{END}",
    "no title, one paragraph": f"{KEY} {MIDDLE} {END}",
}


@pytest.mark.parametrize("text", RECOVERED.values(), ids=RECOVERED.keys())
def test_a_section_without_title_is_recovered_and_reported(text):
    cot = ChainOfThought.parse(text)
    assert cot.sections == SECTIONS
    problems = cot.check(Expression.HAPPINESS)
    assert problems
    assert all("has no title" in problem for problem in problems)


def test_what_cannot_be_recovered_stays_empty_and_is_reported():
    cot = ChainOfThought.parse(f"**Key Observations:** {KEY}\n\n**Conclusion:** {END}")
    assert cot.sections == (KEY, "", END)
    assert cot.check() == ["the section Overall Emotional Interpretation is missing"]
    assert cot.render() == f"**Key Observations:** {KEY}\n\n**Conclusion:** {END}"


def test_a_single_paragraph():
    assert ChainOfThought.parse(f"{KEY} {MIDDLE}").sections == (f"{KEY} {MIDDLE}", "", "")
    assert ChainOfThought.parse(f"{KEY} {END}").sections == (KEY, "", END)
    assert ChainOfThought.parse("Anger").sections == ("", "", "Anger")
    assert ChainOfThought.parse("Anger").expression is Expression.ANGER


def test_title_words_in_the_prose_are_no_titles():
    conclusion = "The key observations and the interpretation support this conclusion: happiness. In conclusion, joy."
    cot = ChainOfThought.parse(
        f"**Key Observations:** {KEY}\n\n**Interpretation:** {MIDDLE}\n\n**Conclusion:** {conclusion}"
    )
    assert cot.sections == (KEY, MIDDLE, conclusion)


def test_bold_words_and_lists_in_a_section_are_kept():
    key = "- **Brows:** lowered\n- **Lips:** the left corner is raised"
    cot = ChainOfThought.parse(
        f"**Key Observations:**\n{key}\n\n**Interpretation:** {MIDDLE}\n\n**Conclusion:** This is **joy**"
    )
    assert cot.sections == (key, MIDDLE, "This is **joy**")


def test_a_title_that_comes_twice_adds_to_its_section():
    cot = ChainOfThought.parse(
        f"Key Observations: {KEY}\nInterpretation: {MIDDLE}\nConclusion: {END}\nConclusion: It is joy."
    )
    assert cot.conclusion == f"{END}\n\nIt is joy."


def test_any_string_can_be_read():
    pieces = [
        "**",
        "__",
        "#",
        "### ",
        "Conclusion",
        ":",
        "\n",
        "\n\n",
        "Key Observations",
        "interpretation",
        "left ",
        "right ",
    ]
    pieces += [
        " is left behind",
        "no ",
        "joy",
        "\r\n",
        "1. ",
        "- ",
        "\x00",
        "\ud800",
        "😀",
        "：",
        " " * 40,
        ".",
        "neutral ",
    ]
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 25)))
        cot = ChainOfThought.parse(text)
        assert cot.text == text
        assert cot.expression is None or isinstance(cot.expression, Expression)
        assert cot.mirrored().mirrored() == cot
        assert cot.check() or all(cot.sections)


@pytest.mark.parametrize(
    "text", ["conclusion: " * 10_000, " " * 100_000, "#" * 100_000 + "conclusion", "key " * 30_000]
)
def test_time_grows_with_the_length_only(text):
    start = time.process_time()
    ChainOfThought.parse(text).check()
    assert time.process_time() - start < 5  # 0.2 s at most when measured


@pytest.mark.parametrize("value", [None, 3, b"**Conclusion:** joy", float("nan")])
def test_only_a_string_can_be_read(value):
    with pytest.raises(ChainOfThoughtError, match=f"got {type(value).__name__}"):
        ChainOfThought.parse(value)


def test_of_renders_and_parse_reads_it_back():
    cot = ChainOfThought.from_sections(*SECTIONS)
    assert cot.text == cot.render() == VARIANTS["bold, colon inside"]
    assert ChainOfThought.parse(cot.text) == cot


def test_check_names_each_problem():
    long = ChainOfThought.from_sections("The left eye is closed. " * 40, MIDDLE, "The expression reveals fear")
    assert long.check(Expression.ANGER) == [
        f"{len(long.text.split())} words, more than the maximum of {MAX_WORDS}",
        "the conclusion does not end with a period",
        "the conclusion names Fear, not Anger",
    ]
    assert long.check(Expression.FEAR, max_words=500) == ["the conclusion does not end with a period"]
    assert ChainOfThought.from_sections(KEY, "A sad look.", "The face is as it is.").check() == [
        "the conclusion does not settle on an expression"
    ]


def test_the_conclusion_outweighs_the_rest():
    cot = ChainOfThought.from_sections(
        "Anger, rage, fury.", "Anger everywhere, clearly anger.", "The expression is one of joy."
    )
    assert cot.expression is Expression.HAPPINESS


def test_the_rest_decides_where_the_conclusion_names_none():
    cot = ChainOfThought.from_sections(KEY, "The lowered corners convey sadness.", "The movements form one pattern.")
    assert cot.expression is Expression.SADNESS
    assert ChainOfThought.from_sections(KEY, "", "").expression is None


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("The left brow is raised, the Right one is not.", "The right brow is raised, the Left one is not."),
        ("LEFT EYE, RIGHT LID", "RIGHT EYE, LEFT LID"),
        ("From left to right, the left-hand side.", "From right to left, the right-hand side."),
        ("The leftmost corner drifts rightward.", "The rightmost corner drifts leftward."),
        ("The face has left and right brows lowered.", "The face has right and left brows lowered."),
        ("Lines run on the left over the brow.", "Lines run on the right over the brow."),
        ("The jaw shifts to the left.", "The jaw shifts to the right."),
        ("the left/right difference", "the right/left difference"),
    ],
)
def test_mirror_swaps_sides(text, mirrored):
    assert mirror_text(text) == mirrored
    assert mirror_text(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "The joy was left behind, nothing left of the smile.",
        "The viewer is left with an impression of sorrow.",
        "A mark left out of the picture, gone right away.",
        "Anger is the right word, in bright, upright letters; the leftover lifts.",
    ],
)
def test_mirror_leaves_other_meanings(text):
    assert mirror_text(text) == text


def test_mirrored_chain_of_thought():
    cot = ChainOfThought.from_sections(*SECTIONS)
    mirrored = cot.mirrored()
    assert "the right lip corner" in mirrored.key_observations
    assert "left" not in mirrored.text
    assert mirrored == ChainOfThought.parse(mirrored.text)
    assert mirrored.mirrored() == cot
