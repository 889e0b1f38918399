"""The words of the offline writer: how each movement of the face is called, and the sentences around it.

The vocabulary is kept small on purpose, so that a small tokenizer and a small language model can learn it.
"""

from __future__ import annotations

from dataclasses import dataclass

from explllm.core.expressions import Expression

ADVERBS = {
    "slight": "slightly",
    "moderate": "moderately",
    "marked": "markedly",
    "strong": "strongly",
    "extreme": "very strongly",
}

# In a list, where every word counts.
LIST_ADVERBS = ADVERBS | {"extreme": "extremely"}


@dataclass(frozen=True)
class Movement:
    """The words for one action unit, or for the pair of both sides."""

    part: str
    """The part of the face that moves."""
    done: tuple[str, ...]
    """What happens to the part, after "is": interchangeable wordings."""
    noun: str
    """The movement as a noun; {} is the part."""
    trait: str
    """What the part looks like, as an adjective."""
    plural: bool = False
    """Whether the part's name is a plural."""
    absent: str = ""
    """A sentence that says that the movement is not there; empty if that is not worth saying."""


# FEAFA's names without the side, from the top of the face downwards.
MOVEMENTS: dict[str, Movement] = {
    "Brow Raise": Movement("brow", ("raised", "lifted"), "raise of {}", "raised", absent="The brows are not raised."),
    "Brow Lower": Movement(
        "brow", ("lowered", "drawn down"), "lowering of {}", "lowered", absent="The brows are not lowered."
    ),
    "Lid Raise": Movement(
        "upper eyelid", ("raised", "lifted"), "raise of {}", "raised", absent="The eyes are not widened."
    ),
    "Eye Close": Movement("eye", ("closed",), "closing of {}", "closing", absent="The eyes stay open."),
    "Nose Wrinkle": Movement("nose", ("wrinkled",), "wrinkling of {}", "wrinkled", absent="The nose is not wrinkled."),
    "Cheeks Puff": Movement("cheeks", ("puffed out",), "puffing of {}", "puffed", plural=True),
    "Upper Lip Raise": Movement("upper lip", ("raised", "lifted"), "raise of {}", "raised"),
    "Lip Corner Pull": Movement(
        "lip corner", ("pulled up", "turned up"), "upward pull of {}", "upturned", absent="There is no smile."
    ),
    "Lip Corner Stretch": Movement(
        "lip corner",
        ("stretched outward", "drawn to the side"),
        "outward stretch of {}",
        "stretched",
        absent="The lip corners are not stretched.",
    ),
    "Upper Lip Suck": Movement("upper lip", ("drawn in",), "inward pull of {}", "drawn-in"),
    "Lower Lip Suck": Movement("lower lip", ("drawn in",), "inward pull of {}", "drawn-in"),
    "Lip Pucker": Movement(
        "lips", ("puckered", "pushed out"), "pucker of {}", "puckered", plural=True, absent="The lips are not puckered."
    ),
    "Lower Lip Depress": Movement("lower lip", ("pulled down",), "downward pull of {}", "pulled-down"),
    "Jaw Drop": Movement("jaw", ("dropped", "lowered"), "drop of {}", "dropped", absent="The jaw does not drop."),
    "Jaw Slide Left": Movement("jaw", ("shifted to the left",), "shift of {} to the left", "left-shifted"),
    "Jaw Slide Right": Movement("jaw", ("shifted to the right",), "shift of {} to the right", "right-shifted"),
    "Jaw Thrust": Movement("jaw", ("pushed forward",), "forward push of {}", "jutting"),
    "Chin Raise": Movement("chin", ("raised", "pushed up"), "raise of {}", "raised", absent="The chin is not raised."),
}

# The movements that go with an expression: the prototypes of EMFACS (Friesen & Ekman 1983) as far as FEAFA has their
# units, and the mouth movements that stand in for those it lacks (pressed lips, lowered lip corners).
TYPICAL: dict[Expression, frozenset[str]] = {
    Expression.NEUTRAL: frozenset(),
    Expression.HAPPINESS: frozenset({"Lip Corner Pull", "Eye Close", "Upper Lip Raise"}),
    Expression.SADNESS: frozenset({"Brow Raise", "Brow Lower", "Chin Raise", "Lower Lip Depress", "Eye Close"}),
    Expression.SURPRISE: frozenset({"Brow Raise", "Lid Raise", "Jaw Drop"}),
    Expression.FEAR: frozenset({"Brow Raise", "Brow Lower", "Lid Raise", "Lip Corner Stretch", "Jaw Drop"}),
    Expression.DISGUST: frozenset({"Nose Wrinkle", "Upper Lip Raise", "Chin Raise", "Brow Lower"}),
    Expression.ANGER: frozenset(
        {"Brow Lower", "Lid Raise", "Upper Lip Suck", "Lower Lip Suck", "Lip Pucker", "Jaw Thrust", "Chin Raise"}
    ),
    Expression.CONTEMPT: frozenset({"Lip Corner Pull", "Chin Raise", "Upper Lip Raise"}),
}

# What the expression is like, in words that are no label.
MOODS: dict[Expression, tuple[str, ...]] = {
    Expression.NEUTRAL: ("a calm, resting face", "a relaxed face", "a face at rest"),
    Expression.HAPPINESS: ("a warm, welcoming mood", "a friendly and pleasant mood", "real pleasure"),
    Expression.SADNESS: ("a heavy, downcast mood", "low spirits", "a sense of loss"),
    Expression.SURPRISE: ("a reaction to something unexpected", "a sudden rise in attention", "a moment of wonder"),
    Expression.FEAR: ("a sense of threat", "strong inner alarm", "the tension of facing a danger"),
    Expression.DISGUST: ("a turning away from something foul", "a strong dislike", "a wish to keep something away"),
    Expression.ANGER: ("a hard and tense mood", "strain and a readiness to push back", "a tense, hostile mood"),
    Expression.CONTEMPT: ("a cool sense of being above others", "a mocking attitude", "a cold, dismissive mood"),
}

OPENINGS = (
    *("", "", "", "In this face, ", "A close look shows that ", "Here, ", "At first sight, "),
    *("As the face shows, ", "In this picture, ", "What stands out is that "),
)
FOLLOWINGS = ("", "", "In addition, ", "At the same time, ", "Besides, ", "Further, ")
# What begins the one long sentence of a face that moves too much for the usual ones.
LIST_OPENINGS = ("Many movements are visible: ", "Much of this face moves: ", "The face shows many movements: ")
TYPICAL_SIGNS = (", which often goes with {label}", ", a common sign of {label}", ", as is typical of {label}")
STILL = (
    "Little movement is visible: brows, eyes and mouth stay close to rest.",
    "Hardly any movement can be seen in this face.",
    "Little movement is visible, and no part of the face stands out.",
    "Little movement can be seen from the brows down to the mouth.",
    "Hardly any movement stands out in this face.",
    "Hardly any movement is visible: the face is close to rest.",
)
TRACES = (
    "Little movement is visible; only a trace shows in {part}.",
    "Hardly any movement can be seen, apart from a trace in {part}.",
    "Hardly any movement is visible, with only a trace in {part}.",
    "Little movement can be seen; what there is shows as a trace in {part}.",
)

CLEAR_READINGS = (
    "{Traits} clearly {point} to {mood}.",
    "{Traits} {suggest} {mood}.",
    "{Traits} {point} clearly to {mood}.",
    "The reading rests on {traits}, which {point} to {mood}.",
)
# Of two movements or more.
JOINT_READINGS = (
    "Together, {traits} {point} to {mood}.",
    "Taken together, {traits} {suggest} {mood}.",
    "{Traits} {form} a pattern that fits {mood}.",
    "The pattern is plain: {traits} {point} to {mood}.",
    "{Traits} {fit} together and {suggest} {mood}.",
)
FAINT_READINGS = (
    "The movements are small, but {traits} {hint} at {mood}.",
    "No movement is large; still, {traits} {suggest} {mood}.",
    "All movements are small, yet {traits} {point} to {mood}.",
)
OVERSHADOWED_READINGS = (
    "{Traits} {hint} at {mood}, if only faintly.",
    "{Traits} {give} a first hint of {mood}.",
    "There is only a faint hint of {mood} in {traits}.",
)
UNTYPICAL_READINGS = (
    "None of these movements is typical of {label}, so the evidence is weak and rests on the face as a whole.",
    "These movements alone do not lead to {label}; the impression of {mood} comes from the face as a whole.",
    "No movement here is a common sign of {label}; the face as a whole gives a weak impression of {mood}.",
)
STILL_READINGS = (
    "With so little movement, the evidence for {label} is weak and rests on the face as a whole.",
    "So little movement gives weak evidence; the impression of {mood} comes from the face as a whole.",
    "Little movement means weak evidence, and only the face as a whole tells of {mood}.",
    "The evidence is weak: no movement speaks for {mood}, only the face as a whole.",
)
CONTRARY = (
    "{Traits} {fit} this reading less well, so the evidence is mixed.",
    "{Traits} {do} not belong to the usual pattern and {leave} some doubt.",
)
WEAKER_CONTRARY = (
    "{Traits} {add} a different note, but a weaker one.",
    "{Traits} {matter} less for this reading.",
)
NEUTRAL_STILL = (
    "No movement stands out, which fits {mood}.",
    "Without any clear movement, the impression is one of {mood}.",
    "The lack of clear movement points to {mood}.",
    "This is what {mood} looks like.",
    "All of this fits {mood}.",
)
NEUTRAL_FAINT = (
    "The movements are small and form no clear pattern, which fits {mood}.",
    "Such small movements carry little meaning and fit {mood}.",
    "Movements as small as these fit {mood}.",
    "None of these small movements speaks against {mood}.",
)
NEUTRAL_CLEAR = (
    "{Traits} {stand} out, but no clear pattern of a stronger emotion follows.",
    "Although {traits} {stand} out, the movements together tell of no strong emotion.",
    "{Traits} {stand} out; what else there is fits {mood}.",
)

NEUTRAL_CONTRARY = (
    "{Traits} {stand} out, which is unusual for {mood}, so the evidence is mixed.",
    "{Traits} {stand} out more than in {mood} and {leave} some doubt.",
    "{Traits} {stand} out and {fit} {mood} less well, so the evidence is mixed.",
)

CLEAR_ENDINGS = (
    "Overall, the face shows {clear}.",
    "In summary, the expression is best described as {label}.",
    "In conclusion, this is {clear}.",
    "Taken as a whole, the features form {clear}.",
    "All in all, the face shows {plain}.",
    "The face as a whole shows {clear}.",
    "The label that follows is {label}.",
)
FAINT_ENDINGS = (
    "Overall, the expression is best described as {label}.",
    "In summary, the label that fits best is {label}.",
    "In conclusion, the face shows {plain}.",
    "All in all, this is {plain}.",
    "The label that follows is {label}.",
)
WEAK_ENDINGS = (
    "The label is {label}, with weak support from the visible movements.",
    "Overall, the expression is taken to be {label}, but the visible evidence is weak.",
    "In conclusion, the best label is {label}, with low certainty.",
    "All in all, the label is {label}, with low certainty.",
)

# The verbs of the readings, which agree with the movements named; "do" is the irregular one.
VERBS = ("point", "suggest", "form", "hint", "give", "fit", "leave", "add", "matter", "stand")
