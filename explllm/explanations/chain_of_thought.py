"""The chain of thought: key observations, overall emotional interpretation, conclusion.

The sections come from Section III-B of the ExpLLM paper ("Format Refinement"). Language models write them under titles
that vary: ``**Conclusion:**``, ``**Conclusion**:``, ``### Conclusion``, ``3. Conclusion:``, plain, inside a line, or
none at all. `ChainOfThought.parse` reads all of these and fails on no text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from explllm.core.errors import ChainOfThoughtError
from explllm.core.expressions import Expression
from explllm.explanations.verdict import is_decisive, verdict

MAX_WORDS = 130
"""The most words of a chain of thought, titles included (paper, Section III-B, the prompt of "Format Refinement")."""

TITLES: tuple[str, str, str] = ("Key Observations", "Overall Emotional Interpretation", "Conclusion")
"""The titles of the sections, in order."""


@dataclass(frozen=True)
class ChainOfThought:
    """The explanation of one face's expression, in three sections."""

    key_observations: str
    """Which action units are seen, how strongly, and what they may mean."""
    interpretation: str
    """What the action units mean together."""
    conclusion: str
    """The expression that follows."""
    text: str
    """The whole text, as it was given to `parse` or made by `from_sections`."""

    @classmethod
    def parse(cls, text: str, recover: bool = True) -> ChainOfThought:
        """Split a language model's text into the three sections.

        A section without a title is recovered where the text allows it: the conclusion from the last paragraph or from
        the sentence that begins like one ("In summary, ..."), the interpretation from a further paragraph of the key
        observations or from the sentence that sums them up ("Together, ..."), the key observations from what stands
        before the first title. A text without any title is split
        by its paragraphs; a single paragraph without a concluding sentence is all key observations, or all conclusion
        if it has no more than 12 words (a bare label). What cannot be recovered stays empty; `check` reports both.

        Args:
            text: Any string.
            recover: Whether to look for sections that have no title; otherwise they are empty.

        Returns:
            The chain of thought; its ``text`` is the given one.

        Raises:
            ChainOfThoughtError: If ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise ChainOfThoughtError(
                f"a chain of thought of type {type(text).__name__}", remedy="Give the text as a string."
            )
        preamble, found = _titled_sections(text)
        if not recover:
            key, interpretation, conclusion = (found.get(section, "") for section in range(3))
        elif found:
            key, interpretation, conclusion = _recover(preamble, [found.get(section, "") for section in range(3)])
        else:
            key, interpretation, conclusion = _untitled_sections(preamble)
        return cls(key, interpretation, conclusion, text)

    @classmethod
    def from_sections(cls, key_observations: str, interpretation: str, conclusion: str) -> ChainOfThought:
        """Make a chain of thought from its sections; its text is the rendered one.

        Args:
            key_observations: The first section, without a title.
            interpretation: The second section.
            conclusion: The third section.

        Returns:
            The chain of thought.
        """
        sections = (key_observations.strip(), interpretation.strip(), conclusion.strip())
        return cls(*sections, _render(sections))

    @property
    def sections(self) -> tuple[str, str, str]:
        """The three sections in order."""
        return self.key_observations, self.interpretation, self.conclusion

    @property
    def expression(self) -> Expression | None:
        """The expression that the conclusion arrives at, or None if the whole text speaks of none.

        Only where the conclusion names none, or two alike, do the interpretation and then the key observations have a
        say; see `explllm.explanations.verdict`.
        """
        if self.conclusion:
            return verdict(self.conclusion, self.interpretation, self.key_observations)
        return verdict(self.interpretation, self.key_observations)

    def render(self) -> str:
        """Return the sections under their titles in the usual form; empty sections are left out."""
        return _render(self.sections)

    def check(self, expression: Expression | None = None, max_words: int = MAX_WORDS) -> list[str]:
        """Name everything that is wrong with the chain of thought.

        Args:
            expression: The expression that the conclusion should arrive at, if that is known.
            max_words: The most words the text may have, titles included.

        Returns:
            One short phrase for each problem; none when all is well.
        """
        problems = []
        titled = _titled_sections(self.text)[1]
        for section, (title, body) in enumerate(zip(TITLES, self.sections, strict=True)):
            if not body:
                problems.append(f"the section {title} is missing")
            elif section not in titled:
                problems.append(f"the section {title} has no title: its place in the text was guessed")
        words = len(self.text.split())
        if words > max_words:
            problems.append(f"{words} words instead of at most {max_words}")
        if self.conclusion and self.conclusion[-1] not in _ENDINGS:
            problems.append("the conclusion breaks off without a full stop")
        if self.conclusion and not is_decisive(self.conclusion):
            problems.append("the conclusion decides for no expression")
        if expression is not None and self.expression not in (None, expression):
            problems.append(f"the conclusion arrives at {self.expression}, not at {expression}")
        return problems

    def mirrored(self) -> ChainOfThought:
        """Return the chain of thought of the same face flipped left to right."""
        key, interpretation, conclusion = (mirror_text(section) for section in self.sections)
        return ChainOfThought(key, interpretation, conclusion, mirror_text(self.text))


def _render(sections: tuple[str, str, str]) -> str:
    return "\n\n".join(f"**{title}:** {body}" for title, body in zip(TITLES, sections, strict=True) if body)


# Sentences that end here are complete: a closing quotation mark or bracket may follow the full stop.
_ENDINGS = frozenset(".!?…\"'”’)*_`]")

# What a section may be called. White space is bounded so that no text can make the search slow.
_NAMES = (
    r"(?:key|main|facial)[ \t_]{1,3}(?:facial[ \t]{1,3})?(?:observations?|findings)|observations?",
    r"(?:overall[ \t_]{1,3})?(?:emotional[ \t_]{1,3})?interpretations?|overall[ \t](?:emotional[ \t])?analysis",
    r"(?:(?:final|overall)[ \t_]{1,3})?conclusions?|summary",
)
_NAME = re.compile(
    rf"(?<![a-z])(?:(?P<s0>{_NAMES[0]})|(?P<s1>{_NAMES[1]})|(?P<s2>{_NAMES[2]}))(?![a-z])", re.IGNORECASE
)
_NUMBER = r"(?:(?:\d{1,2}|[ivxIVX]{1,4}|[a-cA-C])[.):][ \t]{0,4})?"
# What may stand before a title that begins its line: quotation or heading marks, a bullet, a number, bold type.
_LINE_LEAD = re.compile(
    rf"[ \t>]{{0,8}}(?:\#{{1,6}}[ \t]{{0,4}}|[-*+•][ \t]{{1,4}})?{_NUMBER}(?P<bold>\*\*|__|\*)?[ \t]{{0,2}}{_NUMBER}"
)
# And before one inside a line: bold type, or the end of a sentence.
_INLINE_LEAD = re.compile(rf"(?P<bold>\*\*|__){_NUMBER}$|(?<=[.!?\"')\]*])[ \t]{{1,4}}$")
_TAIL = re.compile(
    r"(?P<inner>[ \t]{0,4}[:：])?[ \t]{0,2}(?P<bold>\*\*|__|\*)?(?P<outer>[ \t]{0,4}[:：])?"
    r"(?P<dash>[ \t]{0,4}[-–—](?=\s))?(?P<end>[ \t]{0,8}\r?(?=\n|\Z))?"
)
_LONGEST_LEAD = 32


def _title_span(text: str, name: re.Match[str]) -> tuple[int, int] | None:
    """Return where the title around a section's name begins and ends, or None if the name is part of the prose.

    A title that begins its line is followed by a colon, closing bold type, a dash or nothing. One inside a line has a
    colon, and stands in bold type or after the end of a sentence.
    """
    line = max(text.rfind("\n", 0, name.start()) + 1, name.start() - _LONGEST_LEAD)
    tail = _TAIL.match(text, name.end())
    if tail is None:  # every part of it is optional
        return None
    colon = tail["inner"] or tail["outer"]
    if line == 0 or text[line - 1] == "\n":
        lead = _LINE_LEAD.fullmatch(text, line, name.start())
        if lead and (colon or tail["dash"] or tail["end"] is not None or (lead["bold"] and tail["bold"])):
            return line, tail.end()
    if colon:
        # An end of text in the pattern is the beginning of the name here.
        lead = _INLINE_LEAD.search(text[line : name.start()])
        if lead:
            return line + lead.start(), tail.end()
    return None


def _titled_sections(text: str) -> tuple[str, dict[int, str]]:
    """Return what stands before the first title, and each titled section; a title's second body adds to its first."""
    sections: dict[int, str] = {}
    preamble = text
    section, body_start = -1, 0
    for name in _NAME.finditer(text):
        span = _title_span(text, name)
        if span is None:
            continue
        if section < 0:
            preamble = text[: span[0]]
        else:
            _append(sections, section, text[body_start : span[0]])
        section = next(number for number in range(3) if name[f"s{number}"])
        body_start = span[1]
    if section >= 0:
        _append(sections, section, text[body_start:])
    return _clean(preamble), sections


def _append(sections: dict[int, str], section: int, body: str) -> None:
    sections[section] = "\n\n".join(part for part in (sections.get(section, ""), _clean(body)) if part)


def _clean(body: str) -> str:
    """Strip white space and what is left of a markdown rule, a code fence or a neighbor's bold type."""
    lines = body.strip().split("\n")
    while lines and _RULE.fullmatch(lines[-1]):
        lines.pop()
    return "\n".join(lines).strip()


_RULE = re.compile(r"\s*(?:[-*_=#]{1,80}|```)?\s*")
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_BULLET = re.compile(r"[-*+•]\s|\d{1,2}[.)]\s")
# How a concluding sentence begins.
_CONCLUDES = re.compile(
    r"(?:in (?:conclusion|summary|sum|essence|short)|to (?:conclude|summari[sz]e|sum up)|overall|ultimately|altogether"
    r"|all in all|taken together|collectively|thus|therefore|consequently|hence|as a result)\b",
    re.IGNORECASE,
)
# How a sentence begins that reads several observations together.
_SUMS_UP = re.compile(
    r"(?:together|combined|collectively|taken together|overall|the (?:combination|combined|interplay)|in combination"
    r"|these (?:combined )?(?:features|movements|elements|facial|cues|characteristics|observations|actions|signs"
    r"|indicators))\b",
    re.IGNORECASE,
)
_LABEL_WORDS = 12


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in _PARAGRAPH.split(text) if paragraph]


def _split_conclusion(text: str) -> tuple[str, str]:
    """Split a text before its last paragraph, or else before the last sentence that begins like a conclusion."""
    paragraphs = _paragraphs(text)
    if len(paragraphs) > 1 and not _BULLET.match(paragraphs[-1]):
        return "\n\n".join(paragraphs[:-1]), paragraphs[-1]
    sentences = _SENTENCE.split(text)
    for place in range(len(sentences) - 1, 0, -1):
        if _CONCLUDES.match(sentences[place]):
            return " ".join(sentences[:place]), " ".join(sentences[place:])
    return text, ""


def _split_interpretation(text: str) -> tuple[str, str]:
    """Split key observations before their last paragraph, or else before the first sentence that sums them up."""
    paragraphs = _paragraphs(text)
    if len(paragraphs) > 1 and not _BULLET.match(paragraphs[-1]):
        return "\n\n".join(paragraphs[:-1]), paragraphs[-1]
    sentences = _SENTENCE.split(text)
    for place in range(1, len(sentences)):
        if _SUMS_UP.match(sentences[place]):
            return " ".join(sentences[:place]), " ".join(sentences[place:])
    return text, ""


def _recover(preamble: str, sections: list[str]) -> tuple[str, str, str]:
    """Fill the sections whose title is missing from their neighbors, where those hold a paragraph too many."""
    key, interpretation, conclusion = sections
    if not key:
        key = preamble
    if not conclusion and interpretation:
        interpretation, conclusion = _split_conclusion(interpretation)
    elif not conclusion:
        key, conclusion = _split_conclusion(key)
    if not interpretation and conclusion:
        key, interpretation = _split_interpretation(key)
    if not key:
        paragraphs = _paragraphs(interpretation)
        if len(paragraphs) > 1:
            key, interpretation = paragraphs[0], "\n\n".join(paragraphs[1:])
    return key, interpretation, conclusion


def _untitled_sections(text: str) -> tuple[str, str, str]:
    paragraphs = _paragraphs(text)
    if len(paragraphs) > 2:
        return paragraphs[0], "\n\n".join(paragraphs[1:-1]), paragraphs[-1]
    if len(text.split()) <= _LABEL_WORDS:
        return "", "", text
    key, conclusion = _split_conclusion(text)
    key, interpretation = _split_interpretation(key) if conclusion else (key, "")
    return key, interpretation, conclusion


# Neighbors that make "left" a form of "leave", or "right" something other than a side: "is left with", "nothing left";
# "left behind", "right away", but "on the left over the brow"; "the right balance". They hold for both words alike, so
# that mirroring twice gives the text back.
_VERB_BEFORE = re.compile(
    r"\b(?:just|quite|exactly|ha(?:s|ve|d|ving)|was|were|been|being|be|is|are)[ \t]{1,3}$",
    re.IGNORECASE,
)
_REMAINDER_BEFORE = re.compile(r"\b(?:all|what|nothing|little)[ \t]{1,3}$", re.IGNORECASE)
_SIDE_AFTER = re.compile(
    r"[ \t]{1,3}(?:and|or|of|side|half|part|eye|brow|lid|lip|corner|cheek|jaw|nostril|mouth|upper|lower|inner|outer)",
    re.IGNORECASE,
)
_PARTICLE_AFTER = re.compile(
    r"[ \t]{1,3}(?:behind|alone|out|off|over|away|now|uns\w+|unanswered|unclear)\b", re.IGNORECASE
)
_DETERMINER_BEFORE = re.compile(r"\b(?:the|on|to|its|their|own|from)[ \t]{1,3}$", re.IGNORECASE)
_RIGHTNESS_AFTER = re.compile(
    r"[ \t]{1,3}(?:amount|balance|moment|time|words?|tone|choice|answer|interpretation|conclusion|label|reading)\b",
    re.IGNORECASE,
)
_SIDE = re.compile(r"(?<![a-z])(left|right)((?:most|wards?|hand|sided)?)(?![a-z])", re.IGNORECASE)
_OTHER_SIDE = {
    "left": "right",
    "right": "left",
    "Left": "Right",
    "Right": "Left",
    "LEFT": "RIGHT",
    "RIGHT": "LEFT",
}
_LONGEST_BEFORE = 16


def mirror_text(text: str) -> str:
    """Swap left and right in a text, their case kept; mirroring twice gives the text back.

    Args:
        text: English prose about a face.

    Returns:
        The prose about the same face flipped left to right. "Left" as a form of "leave" ("left behind", "is left with")
        and "right" that is no side ("right away", "the right word") stay.
    """
    return _SIDE.sub(_swap_side, text)


def _swap_side(match: re.Match[str]) -> str:
    text, start, end = match.string, match.start(), match.end()
    before = text[max(0, start - _LONGEST_BEFORE) : start]
    if not match[2] and (
        _RIGHTNESS_AFTER.match(text, end)
        or _REMAINDER_BEFORE.search(before)
        or (_PARTICLE_AFTER.match(text, end) and not _DETERMINER_BEFORE.search(before))
        or (_VERB_BEFORE.search(before) and not _SIDE_AFTER.match(text, end))
    ):
        return match[0]
    return _OTHER_SIDE.get(match[1], match[1]) + match[2]
