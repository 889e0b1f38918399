"""The verdict on prose: what a clause denies, concedes, plays down or up. The sentences are the tests' own."""

import time

import pytest

from explllm.core.expressions import Expression
from explllm.explanations.verdict import is_decisive, score, verdict

CASES = {
    # A label by itself, as a noun, an adjective, a synonym, in any markup.
    "Anger": "Anger",
    "Label: Neutral": "Neutral",
    "The expression is undeniably one of **anger**.": "Anger",
    "The best label is 'Surprise'.": "Surprise",
    "The face shows astonishment.": "Surprise",
    "A fearful face.": "Fear",
    "An air of superiority and disdain marks the face.": "Contempt",
    # Denied.
    "The absence of anger and the bright smile speak of happiness.": "Happiness",
    "The expression conveys disgust rather than joy.": "Disgust",
    "Without sadness, fear, or anger, the face shows joy.": "Happiness",
    "Rather than happiness, fear, or sadness, this is surprise.": "Surprise",
    "No trace of sadness, anger or fear can be found; joy is what this face shows.": "Happiness",
    "The face does not strongly indicate any specific emotion such as happiness, sadness, or anger.": "Neutral",
    "The expression is neither distinctly happy nor sad, but rather neutral.": "Neutral",
    "The expression falls short of genuine happiness and remains neutral.": "Neutral",
    "Happiness is not evident in this face; the lowered corners convey sadness.": "Sadness",
    "The reading emphasizes aversion over joy.": "Disgust",
    # Items of a list of denials do not cancel out.
    "The expression is neither happiness nor sadness but anger.": "Anger",
    "There is no anger, no fear, no sadness: the face is happy.": "Happiness",
    "No sadness, no fear and no anger are visible; joy is.": "Happiness",
    "There is no joy, no sadness, no anger: a neutral expression.": "Neutral",
    "The expression isn't happiness, it is sadness.": "Sadness",
    "It doesn’t convey anger, but fear.": "Fear",
    # Denied twice, or not at all.
    "The raised lips complement it without detracting from the joy.": "Happiness",
    "It is joy rather than a lack of happiness.": "Happiness",
    "She can't hide her happiness.": "Happiness",
    "A slight frown does not detract from the joy.": "Happiness",
    "There is no doubt that this is fear.": "Fear",
    "Not only surprise but lasting joy, and happiness above all, fill this face.": "Happiness",
    # Played down.
    "The expression conveys sadness with hints of surprise and slight anger.": "Sadness",
    "The face is surprised, though perhaps with an undertone of fear.": "Surprise",
    "Although the smile might suggest happiness, the lowered brows indicate anger.": "Anger",
    "Despite hints of fear, sadness, and anger, the expression is neutral.": "Neutral",
    "While elements of happiness appear in the lip corners, the overall expression is dominated by disgust.": "Disgust",
    "The surprise remains minor; fear fills the face.": "Fear",
    "Anger is less likely than disgust.": "Disgust",
    "It is less likely fear than surprise.": "Surprise",
    "It resembles fear, but it is surprise.": "Surprise",
    # Denied after the word.
    "Happiness can be ruled out; the face shows contempt.": "Contempt",
    "Fear is unlikely; the face shows surprise.": "Surprise",
    "Happiness seems improbable here, and the face shows disgust.": "Disgust",
    "Surprise cannot be ruled out.": "Surprise",
    "Fear is not unlikely.": "Fear",
    "Happiness is impossible to miss.": "Happiness",
    "The brows press against the eyes in anger.": "Anger",
    # Played up.
    "The face shows surprise and fear, with fear being the dominant emotion.": "Fear",
    "The cues speak of sadness and disgust, with disgust prevailing.": "Disgust",
    "The subtle movements convey joy with some surprise.": "Happiness",
    # Neutral: said of the face or of a part, or by the want of any strong emotion.
    "The neutral brow and relaxed eyes support the view that the smile conveys happiness.": "Happiness",
    "The mouth remains neutral, but the brows show anger.": "Anger",
    "Overall, the subject presents a neutral facial expression.": "Neutral",
    "Minimal movement and a relaxed mouth reflect a calm demeanor, without any strong emotion.": "Neutral",
    "The overall expression is neutral, with signs of sadness and a somewhat sad gaze.": "Neutral",
    # Hints alone.
    "Irritation and frustration show in the tense mouth.": "Anger",
    "The wrinkled nose reveals a strong aversion to something unpleasant.": "Disgust",
    "A state of apprehension and alarm in the face of a threat.": "Fear",
}


DENIALS = (
    "It shows no anger and no fear.",
    "The expression is not happiness, not sadness and not anger.",
    "The expression isn't happy.",
    "Sadness can be ruled out.",
    "Sadness is unlikely.",
    "Anger seems less likely.",
    "The features are inconsistent with happiness.",
    "The evidence speaks against surprise.",
    "Happiness is absent.",
)


@pytest.mark.parametrize(("text", "expression"), CASES.items(), ids=range(len(CASES)))
def test_what_a_clause_does_with_a_word(text, expression):
    assert verdict(text) is Expression(expression), dict(score(text))


@pytest.mark.parametrize("text", ["", " \n", "The brows are lowered.", "42", "No anger.", "\x00\ud800", *DENIALS])
def test_no_evidence_gives_none(text):
    assert verdict(text) is None
    assert not is_decisive(text)


def test_look_alikes_are_no_evidence():
    assert not any(score("Surprisingly, the contents happen to be fearless.").values())


def test_further_texts_have_a_say_only_where_the_first_is_undecided():
    assert verdict("This is joy.", "Sadness, sadness, sadness.") is Expression.HAPPINESS
    assert verdict("The mood is uplifting.", "The whole face shows sadness.") is Expression.SADNESS
    assert verdict("A blend of surprise and fear.", "The tension conveys fear.") is Expression.FEAR
    assert verdict("A blend of surprise and fear.", "The tension conveys surprise.") is Expression.SURPRISE
    assert verdict("", "", "Sorrow.") is Expression.SADNESS


def test_an_earlier_text_counts_more_than_a_later_one():
    assert verdict("", "Sorrow.", "Joy. Joy. Joy.") is Expression.SADNESS


@pytest.mark.parametrize(
    "text", ["joy " * 20_000, "a" * 300_000, "." * 200_000, "no joy, " * 20_000, "although " * 40_000]
)
def test_time_grows_with_the_length_only(text):
    start = time.process_time()
    verdict(text)
    assert time.process_time() - start < 5  # 0.3 s at most when measured; a quadratic rule takes minutes


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("It is not true that the face shows anger; it shows sadness.", "Sadness"),
        ("The man next to this person looks angry, but this person is happy.", "Happiness"),
        ("In the previous photograph the person was sad. Now the expression is joy.", "Happiness"),
        ("Is this fear? It is surprise.", "Surprise"),
        ("Nobody could claim that this is happiness; the expression is disgust.", "Disgust"),
        ("One might expect anger, but the face shows fear.", "Fear"),
        ("The expression is anything but happy; it is sadness.", "Sadness"),
        ("The face does not fail to show surprise.", "Surprise"),
        ("The expression would best be described as sadness.", "Sadness"),
        ("It is far from anger; it is neutral.", "Neutral"),
        ("If the brows were raised, this would be surprise, but the face is neutral.", "Neutral"),
        ("The caption says anger, but the face shows happiness.", "Happiness"),
        ("The expression may be interpreted as fear.", "Fear"),
        ("There is no evidence of sadness. The expression is happy.", "Happiness"),
        ("This is not anger but disgust.", "Disgust"),
        ("Unlike the man behind him, who is angry, this person is happy.", "Happiness"),
        ("It is not true that the expression is not sadness.", "Sadness"),
        ("There is no evidence that the person is afraid; the face is neutral.", "Neutral"),
        ("The woman in the background is terrified, while this person shows disgust.", "Disgust"),
        ("The person looks as if anger were coming, yet the expression is contempt.", "Contempt"),
        ("A moment ago the person was happy; now the face shows sadness.", "Sadness"),
        ("No one would call this joy. It is fear.", "Fear"),
        ("It would be wrong to say that this is surprise; it is anger.", "Anger"),
        ("The claim that this is fear is false: the expression is happiness.", "Happiness"),
        ("There is no doubt that this is sadness.", "Sadness"),
        ("It cannot be denied that the face shows anger.", "Anger"),
        ("Surprise would need raised brows; this is a neutral face.", "Neutral"),
        ("It is not true that the expression is happiness.", None),
        ("The expression is not happiness.", None),
    ],
)
def test_scope_of_expressions(text, expression):
    assert verdict(text) == expression
