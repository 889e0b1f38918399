"""Lexicon: words for intensities, negations and function words, compiled into one lookup table.

The parts of the face and their movements are in `explllm.explanations.movements`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType

from explllm.core.action_units import INTENSITY_WORDS
from explllm.explanations import movements

Tag = tuple[str, str]
"""Kind and value of a token: ("part", "brow"), ("action", "raise"), ("side", "left")."""

_OWN = {word: (low, high) for (low, _), (high, word) in pairwise(INTENSITY_WORDS)}
_OWN["extreme"] = (_OWN["extreme"][0], 1.0)

_GRADES: tuple[tuple[float, float, str], ...] = (
    # The words of INTENSITY_WORDS and their synonyms. The rule-based writer says "very strongly" for "extreme".
    (*_OWN["slight"], "slight, slightly"),
    (*_OWN["moderate"], "moderate, moderately, medium"),
    (*_OWN["marked"], "marked, markedly"),
    (*_OWN["strong"], "strong, strongly"),
    (*_OWN["extreme"], "extreme, extremely, maximal, maximally, very strong, very strongly"),
    (0.85, 1.0, "fully, completely, entirely, totally, complete, full"),
    # Other common words. Hedges start at 0 because the movement may be absent.
    (0.0, 0.15, "barely, hardly, scarcely, negligible, negligibly, imperceptible, imperceptibly, trace, hint of"),
    (0.0, 0.25, "minimal, minimally, low, little, very slight, very slightly, very subtle, trivial, limited, marginal"),
    (0.0, 0.25, "marginally, very low, very faint, very small, very mild"),
    (0.05, 0.3, "subtle, subtly, faint, faintly, mild, mildly, minor, gentle, gently, small, weak, weakly, light"),
    (0.05, 0.3, "lightly, tiny, soft, softly, delicate, delicately, restrained, subdued, modest, modestly"),
    (0.05, 0.45, "somewhat, a bit, a little, initial, slight to moderate, mild to moderate, slightly to moderately"),
    (0.05, 0.65, "partial, partially, partly, half, some, halfway"),
    (0.2, 0.7, "noticeable, noticeably, notable, notably, visible, visibly, evident, evidently, distinct, distinctly"),
    (0.2, 0.7, "clear, clearly, considerable, considerably, fairly, quite, medium to strong"),
    (0.25, 1.0, "significant, significantly, pronounced, prominent, prominently, substantial, substantially, striking"),
    (0.25, 1.0, "strikingly, heavily, heavy, high, highly, robust, robustly, heightened, deep, deeply, dramatic"),
    (0.25, 1.0, "dramatically, intense, intensely, powerful, powerfully, forceful, forcefully, vigorous, vigorously"),
    (0.25, 1.0, "sharp, sharply, broad, broadly, severe, severely, large, great, greatly, big, hard, tightly, firmly"),
    (0.25, 1.0, "firm, fiercely, exaggerated, mostly, largely, nearly, almost"),
    (0.45, 1.0, "very, widely, very pronounced, very significant, very high, extensive, extensively"),
)

GRADES: dict[str, tuple[float, float]] = {
    word: (low, high) for low, high, words in _GRADES for word in words.split(", ")
}
"""Intensity words and their ranges.

Words in `INTENSITY_WORDS` and their synonyms have the project's ranges. The other ranges were chosen by hand. They are
wide for words, such as "significant", that writers use for anything from moderate to extreme.
"""

_COPULAS = (
    "is, are, was, were, be, been, being, appear, appears, appeared, appearing, seem, seems, look, looks, looking, "
    "become, becomes, becoming, has, have, had, having, show, shows, showing, shown, display, displays, displaying, "
    "exhibit, exhibits, exhibiting, demonstrate, demonstrates, present, presents, feature, features, remain, remains, "
    "remaining, stay, stays, kept, keep, keeps, hold, held, get, gets, undergo, undergoes, reveal, reveals, reflect, "
    "reflects, register, registers, do, does, did, can, may, might, could, also, then, again, just, only, even, all, "
    "they, it, which, who, them, that, these, those, now, here"
)
_FILLERS = (
    "the, a, an, both, his, her, their, its, this, any, some, signs, sign, evidence, hints, degree, level, levels, "
    "effect, amount, look, appearance, position, positioning, posture, placement, more, less, most, least, inner, "
    "outer, middle, upper, corner's, side, sides, muscle, muscles, area, region, part, intensity, use, "
    "symmetrical, asymmetrical, symmetric, overall, combined, corresponding, noticeable, genuine, relaxed"
)
_PREPOSITIONS = "of, in, at, on, for, around, between, across, by, along"
_BREAKS = (
    "but, yet, while, whereas, although, though, however, despite, because, so, unless, until, with, alongside, "
    "along with, where, when, if, since, as, combined, coupled, paired, accompanied, complemented, plus"
)
_REPORTS = (
    "indicate, suggest, imply, reinforce, support, convey, signal, reveal, reflect, hint, point, mark, signify, "
    "denote, confirm, communicate, highlight, emphasise, emphasize, enhance, add, give, create, contribute, express, "
    "mean, lead, accentuate, underscore, further, portray, illustrate"
)
_MIRRORING = (
    "mirror, mirrors, mirrored, mirroring, match, matches, matching, follow, follows, following, same, similar, "
    "similarly, likewise, identical, identically, equal, equally, echo, echoes, echoing, parallels, comparable, "
    "comparably, suit, higher, stronger, lesser, weaker, greater, so is, so are, so does, so do, as is, as are, "
    "as does, as do, as well, too"
)

_NEGATIONS_OF_NOUNS = (
    "no, without, absence of, lack of, lacks, lacking, lack, devoid of, free of, free from, neither, nor, "
    "rather than, instead of, absent any, absent of, little to no, little or no, zero, no sign of, no signs of, "
    "ruling out, rules out, rule out, absence, none of, as opposed to, minimal to no, no evidence of, in place of, "
    "far from, unlike, excludes, excluding, never any, nothing suggests, nothing indicates, nothing shows"
)
LISTED: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("absence of", "lack of", "absence", "lack"), True)
    | dict.fromkeys(("without", "lacks", "lacking", "devoid of", "free of", "free from", "absent of"), False)
)
"""Negations that may apply to every item of a list joined by "and". The value states whether they do so even if a verb
follows the list: "the lack of A, B, and C suggests" denies C, but "without A, the B and C suggest" does not."""
COMPARISONS = ("than", "compared to", "compared with", "relative to")
"""Words before the second part of a comparison, which makes no claim, as in "more than the left"."""

# Phrases that contain a movement word but do not describe a movement.
_OTHER_MEANINGS = (
    *("close to", "close up", "close look", "open to", "opens up", "part of", "push back", "pushing back"),
    *("hold back", "holding back", "draw attention", "raise questions", "raises questions", "lower intensity"),
)

_NEGATIONS_OF_VERBS = "not, never, cannot, fails to, fail to, failing to"
# After "not" or "without", these words leave the following statement intact.
_WITHOUT_EFFECT = (
    "only, just, merely, diminish, detract, detracts, overshadow, undermine, negate, outweigh, weaken, hide, alter, "
    "reduce, affect, override, obscure, change, impact, contradict, interfere, overpower, dominate, eclipse, mask, "
    "disrupt, compromise, necessarily, lessen, diminishing, detracting, overshadowing, undermining, negating, "
    "altering, reducing, affecting, contradicting, overpowering, dominating, disrupting, changing, weakening, "
    "masking, hiding, outweighing, doubt, constitute"
)
_STILLNESS = (
    "neutral, inactive, unchanged, motionless, static, unmoved, immobile, inert, uninvolved, at rest, in place, "
    "unengaged, unaffected, still"
)
_ABSENCES = (
    "absent, missing, nonexistent, non existent, inactive, not present, not visible, not evident, not observed, "
    "not detected, not seen, not apparent, not active, not noticeable, not involved, not shown"
)
# These introduce general statements that are not about this face.
_GENERALITIES = (
    "associated with, linked to, linked with, typical of, characteristic of, often seen in, often seen with, "
    "commonly seen in, often found in, related to, tied to, connected to, would, typical in, common in, "
    "usually accompany, normally, reminiscent of, readiness for, resembling"
)


def forms(verb: str) -> Iterator[str]:
    """Yield the inflected forms of a regular verb, with both a single and a doubled final consonant."""
    yield verb
    yield verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z")) else "s")
    stem = verb.removesuffix("e")
    yield stem + "ed"
    yield stem + "ing"
    yield stem + "ings"
    if verb[-1] == "y" and verb[-2] not in "aeo":
        yield verb[:-1] + "ies"
        yield verb[:-1] + "ied"
    if verb[-1] not in "aeiouwx" and verb[-2] in "aeiou":
        yield verb + verb[-1] + "ed"
        yield verb + verb[-1] + "ing"


def _entries() -> Iterator[tuple[str, Tag]]:
    """Yield every word or phrase with its tag. Later entries replace earlier ones."""
    for words, kind in (
        (_FILLERS, "filler"),
        (_COPULAS, "copula"),
        (_PREPOSITIONS, "of"),
        (_BREAKS, "break"),
    ):
        yield from _tagged(words, kind)
    for verb in _REPORTS.split(", "):
        yield from ((form, ("report", form)) for form in forms(verb))
    for action, words in movements.VERBS.items():
        for verb in words.split(", "):
            yield from ((form, ("action", action)) for form in forms(verb))
    for action, words in movements.OTHER_FORMS.items():
        yield from ((word, ("action", action)) for word in words.split(", "))
    for action, words in movements.PHRASES.items():
        yield from ((phrase, ("action", action)) for phrase in words.split(", "))
    for action, words in movements.DIRECTIONS.items():
        yield from ((phrase, ("direction", action)) for phrase in words.split(", "))
    for part, words in movements.PARTS.items():
        yield from ((name, ("part", part)) for name in words.split(", "))
    yield from ((noun, ("motion", "movement")) for noun in movements.MOTIONS.split(", "))
    yield from ((word, ("grade", word)) for word in GRADES)
    yield from ((phrase, ("side", "one")) for phrase in ("one", "single", "either", "one of the"))
    yield from ((phrase, ("word", phrase)) for phrase in (*COMPARISONS, *_OTHER_MEANINGS))
    for words, kind in (
        ("and, or", "and"),
        ("left, right", "side"),
        ("such as, like, including, e g", "example"),
        ("seen, observed, noted, detected, found, noticed", "seen"),
        (_MIRRORING, "mirror"),
        (_WITHOUT_EFFECT, "without effect"),
        (_STILLNESS, "still"),
        (_ABSENCES, "absent"),
        (_NEGATIONS_OF_NOUNS, "no"),
        (_NEGATIONS_OF_VERBS, "not"),
        (_GENERALITIES, "general"),
    ):
        yield from _tagged(words, kind)


def _tagged(words: str, kind: str) -> Iterator[tuple[str, Tag]]:
    return ((word, (kind, word)) for word in words.split(", "))


def _table() -> dict[str, list[tuple[tuple[str, ...], Tag]]]:
    """Map the first word of each entry to the remaining words and the tag, longest entry first."""
    table: dict[str, list[tuple[tuple[str, ...], Tag]]] = {}
    for entry, tag in dict(_entries()).items():
        first, *rest = entry.split()
        table.setdefault(first, []).append((tuple(rest), tag))
    for entries in table.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return table


TABLE = _table()
"""All entries of the lexicon, by first word."""
