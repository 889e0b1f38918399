"""The wordings of the rule-based writer.

The vocabulary is small so that a small tokenizer and a small language model can learn it. Every list has at least
five wordings, except for those of single movements. `explllm.explanations.claims` must read each of them correctly.
"""

from __future__ import annotations

from dataclasses import dataclass

from explllm.core.expressions import Expression
from explllm.explanations.rule_table import LIP_SUCK

ADVERBS = {
    "slight": "slightly",
    "moderate": "moderately",
    "marked": "markedly",
    "strong": "strongly",
    "extreme": "very strongly",
}

# Single words for lists of movements, which must be short.
LIST_ADVERBS = ADVERBS | {"extreme": "extremely"}


@dataclass(frozen=True)
class Movement:
    """The words for one action unit, or for the left and right units of a pair."""

    part: str
    """The part of the face that moves."""
    done: tuple[str, ...]
    """Participles that describe the movement, as in "the jaw is dropped"."""
    noun: str
    """The movement as a noun phrase, with {} for the part."""
    shown: str
    """The movement as a noun without the part, as in "the jaw shows a drop"."""
    trait: str
    """An adjective for the moved part."""
    plural: bool = False
    """Whether the name of the part is plural."""


# FEAFA names without the side, from the top of the face to the bottom.
MOVEMENTS: dict[str, Movement] = {
    "Brow Raise": Movement("brow", ("raised", "lifted", "elevated"), "raise of {}", "raise", "raised"),
    "Brow Lower": Movement("brow", ("lowered", "drawn down", "pulled down"), "lowering of {}", "lowering", "lowered"),
    "Lid Raise": Movement("upper eyelid", ("raised", "lifted", "elevated"), "raise of {}", "raise", "raised"),
    "Eye Close": Movement("eye", ("closed", "narrowed"), "narrowing of {}", "narrowing", "narrowed"),
    "Nose Wrinkle": Movement("nose", ("wrinkled", "scrunched"), "wrinkling of {}", "wrinkling", "wrinkled"),
    "Cheeks Puff": Movement("cheeks", ("puffed out", "blown out"), "puffing of {}", "puff", "puffed", plural=True),
    "Upper Lip Raise": Movement("upper lip", ("raised", "lifted", "pulled up"), "raise of {}", "raise", "raised"),
    "Lip Corner Pull": Movement(
        "lip corner", ("pulled up", "turned up", "drawn up"), "upward pull of {}", "upward pull", "upturned"
    ),
    "Lip Corner Stretch": Movement(
        "lip corner",
        ("stretched outward", "stretched", "drawn to the side"),
        "outward stretch of {}",
        "outward stretch",
        "stretched",
    ),
    LIP_SUCK: Movement(
        "lips", ("drawn in", "sucked in", "tucked in"), "inward pull of {}", "inward pull", "drawn-in", plural=True
    ),
    "Upper Lip Suck": Movement(
        "upper lip", ("drawn in", "sucked in", "tucked in"), "inward pull of {}", "inward pull", "drawn-in"
    ),
    "Lower Lip Suck": Movement(
        "lower lip", ("drawn in", "sucked in", "tucked in"), "inward pull of {}", "inward pull", "drawn-in"
    ),
    "Lip Pucker": Movement(
        "lips", ("puckered", "pushed out", "pursed"), "pucker of {}", "pucker", "puckered", plural=True
    ),
    "Lower Lip Depress": Movement(
        "lower lip", ("pulled down", "lowered", "drawn down"), "downward pull of {}", "downward pull", "pulled-down"
    ),
    "Jaw Drop": Movement("jaw", ("dropped", "lowered"), "drop of {}", "drop", "dropped"),
    "Jaw Slide Left": Movement(
        "jaw", ("shifted to the left",), "shift of {} to the left", "shift to the left", "left-shifted"
    ),
    "Jaw Slide Right": Movement(
        "jaw", ("shifted to the right",), "shift of {} to the right", "shift to the right", "right-shifted"
    ),
    "Jaw Thrust": Movement(
        "jaw", ("pushed forward", "thrust forward"), "forward push of {}", "forward push", "jutting"
    ),
    "Chin Raise": Movement("chin", ("raised", "pushed up", "lifted"), "raise of {}", "raise", "raised"),
}

# Descriptions of each expression in words that are not labels.
MOODS: dict[Expression, tuple[str, ...]] = {
    Expression.NEUTRAL: ("a calm, resting face", "a relaxed face", "a face at rest", "a calm state", "quiet attention"),
    Expression.HAPPINESS: (
        *("a warm and friendly mood", "a pleasant mood", "real pleasure", "good spirits", "a bright, easy mood"),
    ),
    Expression.SADNESS: (
        *("a heavy, downcast mood", "low spirits", "a sense of loss", "a burdened mood", "quiet distress"),
    ),
    Expression.SURPRISE: (
        *("a reaction to something unexpected", "a sudden rise in attention", "a moment of wonder"),
        *("a startled reaction", "sudden astonishment"),
    ),
    Expression.FEAR: (
        *("a sense of threat", "strong inner alarm", "the tension of facing a danger", "a worried, alarmed mood"),
        "an urge to get away",
    ),
    Expression.DISGUST: (
        *("a turning away from something foul", "a strong dislike", "an urge to back away"),
        *("physical aversion", "a reaction to something unpleasant"),
    ),
    Expression.ANGER: (
        *("a hard and tense mood", "a readiness to confront", "a tense, hostile mood"),
        *("irritation", "a confrontational mood"),
    ),
    Expression.CONTEMPT: (
        *("a cool sense of superiority", "a mocking attitude", "a cold, dismissive mood"),
        *("a superior attitude", "quiet mockery"),
    ),
}
# "Astonishment" is read as surprise and "aversion" as disgust, which suits the expressions they describe.

OPENINGS = (
    *("", "", "In this face, ", "Most visibly, ", "Here, ", "At first sight, ", "What stands out is that "),
    *("Most of all, ", "Above all, "),
)
# Openings of texts whose strongest movement is slight.
SLIGHT_OPENINGS = ("", "", "In this face, ", "Here, ", "A close look shows that ", "On a second look, ")
FOLLOWINGS = (
    *("", "", "In addition, ", "At the same time, ", "Further, ", "Moreover, ", "Also, ", "Next to this, "),
    "To a lesser degree, ",
)
JOINTS = (", and ", ", while ", "; ", ", and also ", "; besides, ")
# Openings of the single sentence that lists the movements if there are too many for the usual sentences.
LIST_OPENINGS = (
    *("Many movements are visible: ", "Much of this face moves: ", "The face shows many movements: "),
    *("Nearly every part moves: ", "The movements are many: "),
)
STILL = (
    "Little movement is visible: brows, eyes and mouth stay close to rest.",
    "Hardly any movement can be seen in this face.",
    "Little movement is visible, and no part of the face stands out.",
    "Hardly any movement stands out in this face.",
    "Hardly any movement is visible: the face is close to rest.",
)
TRACES = (
    "Little movement is visible; only a trace shows in {part}.",
    "Hardly any movement can be seen, apart from a trace in {part}.",
    "Hardly any movement is visible, with only a trace in {part}.",
    "Little movement can be seen; the one trace is in {part}.",
    "Little movement shows, and what shows is a trace in {part}.",
)

# Interpretations, grouped by the strength of the evidence. The verbs in braces agree in number with the traits.
CLEAR_READINGS = (
    "{Traits} clearly {point} to {mood}.",
    "{Traits} {form} a typical sign of {label} and {suggest} {mood}.",
    "The reading of {mood} rests on {traits}.",
    "In FACS terms, {traits} {belong} to {label}, which fits {mood}.",
    "With {traits}, the face conveys {mood}.",
    "{Mood} is plain to see in {traits}.",
    "Taken together, {traits} {form} the pattern of {label} and indicate {mood}.",
    "Both the kind and the strength of {traits} support a reading of {mood}.",
)
MODERATE_READINGS = (
    "{Traits} {suggest} {mood}, though other readings remain open.",
    "{Traits} {fit} {mood}, if not in the full form.",
    "With {traits}, the face shows part of the pattern of {label} and suggests {mood}.",
    "{Traits} {point} to {mood} without making up the whole pattern.",
    "{Mood} is the likely meaning of {traits}.",
    "A part of the usual signs of {label} is visible: {traits} {suggest} {mood}.",
)
WEAK_READINGS = (
    "{Traits} {give} only weak evidence of {mood}.",
    "The evidence is weak: {traits} {fit} {mood}, but also other states.",
    "Taken alone, {traits} {say} little, and {mood} is only one of the possible meanings.",
    "{Mood} is suggested only by {traits}, which is weak evidence.",
    "{Traits} {make} a weak case for {mood}.",
    "Signs as common as {traits} leave room for readings other than {mood}.",
    "There may be {mood} behind {traits}, but such signs have many causes.",
    "As signs of {label}, {traits} {are} too common to be certain.",
)
NO_READINGS = (
    "None of these movements is typical of {label}, so the evidence is weak.",
    "These movements alone do not indicate {label}; the evidence for {mood} is weak.",
    "No movement here is a common sign of {label}, and the evidence remains weak.",
    "The usual signs of {label} are missing, which leaves weak evidence for {mood}.",
    "These movements are weak evidence of {mood}.",
)
STILL_READINGS = (
    "With so little movement, the evidence for {label} is weak.",
    "So little movement gives only weak evidence of {mood}.",
    "Little movement means weak evidence, and {mood} remains a guess.",
    "The evidence is weak: no movement supports {mood}.",
    "A face this still gives weak evidence for {label}.",
)
CONTRARY = (
    "{Traits} {fit} this reading less well, so the evidence is mixed.",
    "{Traits} {belong} to another pattern and {leave} some doubt.",
    "{Traits} {add} a different note to the expression.",
    "{Traits} {have} another meaning, which makes the reading less certain.",
    "{Traits} {are} not part of this pattern.",
)
WEAKER_CONTRARY = (
    "{Traits} {add} a different note, but a weaker one.",
    "{Traits} {matter} less for this reading.",
    "{Traits} {fit} less well, but {weigh} less.",
    "In comparison, {traits} {carry} less weight.",
    "{Traits} {are} secondary to the main signs.",
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
    "Small movements like these are part of {mood}.",
)
NEUTRAL_CLEAR = (
    "{Traits} {stand} out, but no clear pattern of a stronger emotion follows.",
    "Although {traits} {stand} out, the movements together form no pattern of a strong emotion.",
    "{Traits} {stand} out; the rest fits {mood}.",
    "Apart from {traits}, this is {mood}.",
    "Taken alone, {traits} {do} not indicate a clear emotion.",
)
NEUTRAL_CONTRARY = (
    "{Traits} {stand} out, which is unusual for {mood}, so the evidence is mixed.",
    "{Traits} {stand} out more than in {mood} and {leave} some doubt.",
    "{Traits} {stand} out and {fit} {mood} less well, so the evidence is mixed.",
    "{Traits} {stand} out too much for {mood}, which leaves some doubt.",
    "{Traits} {suggest} more than {mood}, so the evidence is mixed.",
)

CLEAR_ENDINGS = (
    "Overall, the face shows {clear}.",
    "In summary, the expression is best described as {label}.",
    "In conclusion, this is {clear}.",
    "Taken together, the features form {clear}.",
    "All in all, the face shows {plain}.",
    "The resulting label is {label}.",
    "The face is therefore labeled as {label}.",
    "The movements agree: this is {plain}.",
)
MODERATE_ENDINGS = (
    "Overall, the label that fits best is {label}.",
    "In summary, the expression is most likely {label}.",
    "On balance, {label} is the best label.",
    "In conclusion, the features fit {label} best.",
    "All in all, the most likely expression is {label}.",
    "Of all labels, {label} fits this face best.",
    "The features make {label} the best choice.",
    "This face is best read as {label}.",
)
WEAK_ENDINGS = (
    "The label is {label}, with weak support from the visible movements.",
    "Overall, the expression is taken to be {label}, but the visible evidence is weak.",
    "In conclusion, the best label is {label}, with low certainty.",
    "All in all, the label is {label}, with low certainty.",
    "On weak evidence, the label is {label}.",
    "In summary, the label is {label}, although the evidence is weak.",
    "The evidence is weak, and the label is {label}.",
    "A tentative label is {label}, with low certainty.",
)

# The verbs in the interpretations. They agree in number with the movements named.
VERBS = ("point", "suggest", "form", "give", "fit", "leave", "add", "stand", "belong", "say", "make", "matter", "weigh")
IRREGULAR_VERBS = {"have": "has", "carry": "carries", "are": "is", "do": "does"}
