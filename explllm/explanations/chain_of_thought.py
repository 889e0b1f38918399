"""The chain of thought: key observations, overall emotional interpretation, conclusion.

The ExpLLM paper defines the three sections in Section III-B ("Format Refinement"). Language models format the
titles in different ways (``**Conclusion:**``, ``**Conclusion**:``, ``### Conclusion``, ``3. Conclusion:``, plain text),
put them inside a line, or omit them. `ChainOfThought.parse` reads all of these variants and accepts any string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from explllm.core.errors import ChainOfThoughtError
from explllm.core.expressions import Expression
from explllm.explanations.verdict import is_decisive, verdict

MAX_WORDS = 130
"""Maximum number of words, including titles (paper, Section III-B, the "Format Refinement" prompt)."""

TITLES: tuple[str, str, str] = ("Key Observations", "Overall Emotional Interpretation", "Conclusion")
"""The section titles, in order."""


@dataclass(frozen=True)
class ChainOfThought:
    """An explanation of the expression of one face, in three sections.

    >>> cot = ChainOfThought.parse(
    ...     "**Key Observations:** Both lip corners are strongly raised. "
    ...     "**Overall Emotional Interpretation:** The smile suggests joy. "
    ...     "**Conclusion:** The expression is happiness."
    ... )
    >>> cot.key_observations
    'Both lip corners are strongly raised.'
    >>> cot.expression
    <Expression.HAPPINESS: 'Happiness'>
    >>> cot.check()
    []
    """

    key_observations: str
    """The visible action units, their intensities, and their possible meaning."""
    interpretation: str
    """The combined meaning of the action units."""
    conclusion: str
    """The resulting expression."""
    text: str
    """The full text: the argument of `parse` or the output of `from_sections`."""

    def _repr_html_(self) -> str:
        """Return the explanation as HTML, which notebooks display."""
        from explllm.explanations.html import sections_html

        texts = (self.key_observations, self.interpretation, self.conclusion)
        return sections_html(zip(TITLES, texts, strict=True))

    @classmethod
    def parse(cls, text: str, recover: bool = True) -> ChainOfThought:
        """Split the output of a language model into the three sections.

        With ``recover``, sections without a title are recovered if possible:

        - The conclusion is the last paragraph, or starts at a sentence such as "In summary, ...".
        - The interpretation is an extra paragraph of the key observations, or starts at a sentence such as
          "Together, ...".
        - The key observations are the text before the first title, or the first of several paragraphs of the
          interpretation.

        A text without any title is split by paragraph. If it has fewer than three paragraphs and at most 12 words (a
        bare label), it becomes the conclusion. A longer single paragraph without a concluding sentence becomes the key
        observations. Sections that cannot be recovered stay empty. `check` reports recovered and empty sections.

        Args:
            text: Any string.
            recover: Whether to recover sections without a title. If False, such sections are empty.

        Returns:
            The chain of thought. Its ``text`` is the input.

        Raises:
            ChainOfThoughtError: If ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise ChainOfThoughtError(
                f"expected a string, got {type(text).__name__}", remedy="Pass the chain of thought as text."
            )
        preamble, titled = _titled_sections(text)
        if not recover:
            key, interpretation, conclusion = (titled.get(section, "") for section in range(3))
        elif titled:
            key, interpretation, conclusion = _recover(preamble, [titled.get(section, "") for section in range(3)])
        else:
            key, interpretation, conclusion = _untitled_sections(preamble)
        return cls(key, interpretation, conclusion, text)

    @classmethod
    def from_sections(cls, key_observations: str, interpretation: str, conclusion: str) -> ChainOfThought:
        """Create a chain of thought from its sections and render its text.

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
        """The expression that the conclusion names, or None if the text does not suggest any.

        If the conclusion is undecided, the interpretation contributes, too, and the key observations contribute with
        half its weight. See `explllm.explanations.verdict`.
        """
        if self.conclusion:
            return verdict(self.conclusion, self.interpretation, self.key_observations)
        return verdict(self.interpretation, self.key_observations)

    def render(self) -> str:
        """Return the non-empty sections with their titles in the standard format."""
        return _render(self.sections)

    def check(self, expression: Expression | None = None, max_words: int = MAX_WORDS) -> list[str]:
        """List the problems of the chain of thought.

        Args:
            expression: The expression that the conclusion should name, if known.
            max_words: Maximum number of words, including titles.

        Returns:
            One short phrase per problem; an empty list if the text has no problem.
        """
        problems = []
        titled = _titled_sections(self.text)[1]
        for section, (title, body) in enumerate(zip(TITLES, self.sections, strict=True)):
            if not body:
                problems.append(f"the section {title} is missing")
            elif section not in titled:
                problems.append(f"the section {title} has no title; its position was guessed")
        words = len(self.text.split())
        if words > max_words:
            problems.append(f"{words} words, more than the maximum of {max_words}")
        if self.conclusion and self.conclusion[-1] not in _ENDINGS:
            problems.append("the conclusion does not end with a period")
        if self.conclusion and not is_decisive(self.conclusion):
            problems.append("the conclusion does not settle on an expression")
        if expression is not None and self.expression not in (None, expression):
            problems.append(f"the conclusion names {self.expression}, not {expression}")
        return problems

    def mirrored(self) -> ChainOfThought:
        """Return the chain of thought for the horizontally flipped face."""
        key, interpretation, conclusion = (mirror_text(section) for section in self.sections)
        return ChainOfThought(key, interpretation, conclusion, mirror_text(self.text))


def _render(sections: tuple[str, str, str]) -> str:
    return "\n\n".join(f"**{title}:** {body}" for title, body in zip(TITLES, sections, strict=True) if body)


# Characters that end a complete sentence. A closing quotation mark, bracket or Markdown mark may follow the period.
_ENDINGS = frozenset(".!?…\"'”’)*_`]")

# Section titles. The amount of whitespace is bounded to keep the search fast on any text.
_NAMES = (
    r"(?:key|main|facial)[ \t_]{1,3}(?:facial[ \t]{1,3})?(?:observations?|findings)|observations?",
    r"(?:overall[ \t_]{1,3})?(?:emotional[ \t_]{1,3})?interpretations?|overall[ \t](?:emotional[ \t])?analysis",
    r"(?:(?:final|overall)[ \t_]{1,3})?conclusions?|summary",
)
_NAME = re.compile(
    rf"(?<![a-z])(?:(?P<s0>{_NAMES[0]})|(?P<s1>{_NAMES[1]})|(?P<s2>{_NAMES[2]}))(?![a-z])", re.IGNORECASE
)
_NUMBER = r"(?:(?:\d{1,2}|[ivxIVX]{1,4}|[a-cA-C])[.):][ \t]{0,4})?"
# Allowed before a title at the start of a line: quotation or heading marks, a bullet, a number, bold markup.
_LINE_LEAD = re.compile(
    rf"[ \t>]{{0,8}}(?:\#{{1,6}}[ \t]{{0,4}}|[-*+•][ \t]{{1,4}})?{_NUMBER}(?P<bold>\*\*|__|\*)?[ \t]{{0,2}}{_NUMBER}"
)
# Allowed before a title inside a line: bold markup, or the end of a sentence.
_INLINE_LEAD = re.compile(rf"(?P<bold>\*\*|__){_NUMBER}$|(?<=[.!?\"')\]*])[ \t]{{1,4}}$")
_TAIL = re.compile(
    r"(?P<inner>[ \t]{0,4}[:：])?[ \t]{0,2}(?P<bold>\*\*|__|\*)?(?P<outer>[ \t]{0,4}[:：])?"
    r"(?P<dash>[ \t]{0,4}[-–—](?=\s))?(?P<end>[ \t]{0,8}\r?(?=\n|\Z))?"
)
_MAX_LEAD_LENGTH = 32


def _title_span(text: str, name: re.Match[str]) -> tuple[int, int] | None:
    """Return the span of the title around a section name, or None if the name is part of the prose.

    A title at the start of a line ends with a colon, closing bold markup, a dash, or the line end. A title inside a
    line ends with a colon and follows bold markup or the end of a sentence.
    """
    line = max(text.rfind("\n", 0, name.start()) + 1, name.start() - _MAX_LEAD_LENGTH)
    tail = _TAIL.match(text, name.end())
    if tail is None:  # never happens: all parts are optional
        return None
    colon = tail["inner"] or tail["outer"]
    if line == 0 or text[line - 1] == "\n":
        lead = _LINE_LEAD.fullmatch(text, line, name.start())
        if lead and (colon or tail["dash"] or tail["end"] is not None or (lead["bold"] and tail["bold"])):
            return line, tail.end()
    if colon:
        # Slice the text so that "$" in the pattern matches at the start of the name.
        lead = _INLINE_LEAD.search(text[line : name.start()])
        if lead:
            return line + lead.start(), tail.end()
    return None


def _titled_sections(text: str) -> tuple[str, dict[int, str]]:
    """Return the text before the first title and the titled sections. Sections with the same title are joined."""
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
    """Strip whitespace, and final lines that contain only Markdown: rules, code fences, bold markup."""
    lines = body.strip().split("\n")
    while lines and _RULE.fullmatch(lines[-1]):
        lines.pop()
    return "\n".join(lines).strip()


_RULE = re.compile(r"\s*(?:[-*_=#]{1,80}|```)?\s*")
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_BULLET = re.compile(r"[-*+•]\s|\d{1,2}[.)]\s")
# The start of a concluding sentence.
_CONCLUDES = re.compile(
    r"(?:in (?:conclusion|summary|sum|essence|short)|to (?:conclude|summari[sz]e|sum up)|overall|ultimately|altogether"
    r"|all in all|taken together|collectively|thus|therefore|consequently|hence|as a result)\b",
    re.IGNORECASE,
)
# The start of a sentence that combines several observations.
_COMBINES = re.compile(
    r"(?:together|combined|collectively|taken together|overall|the (?:combination|combined|interplay)|in combination"
    r"|these (?:combined )?(?:features|movements|elements|facial|cues|characteristics|observations|actions|signs"
    r"|indicators))\b",
    re.IGNORECASE,
)
_MAX_LABEL_WORDS = 12


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in _PARAGRAPH.split(text) if paragraph]


def _split_conclusion(text: str) -> tuple[str, str]:
    """Split off the last paragraph, or the text from the last sentence that starts like a conclusion."""
    return _split_off(text, _CONCLUDES, -1)


def _split_interpretation(text: str) -> tuple[str, str]:
    """Split off the last paragraph, or the text from the first sentence that combines observations."""
    return _split_off(text, _COMBINES, 0)


def _split_off(text: str, start: re.Pattern[str], which: int) -> tuple[str, str]:
    paragraphs = _paragraphs(text)
    if len(paragraphs) > 1 and not _BULLET.match(paragraphs[-1]):
        return "\n\n".join(paragraphs[:-1]), paragraphs[-1]
    sentences = _SENTENCE.split(text)
    places = [place for place, sentence in enumerate(sentences) if place and start.match(sentence)]
    if not places:
        return text, ""
    return " ".join(sentences[: places[which]]), " ".join(sentences[places[which] :])


def _recover(preamble: str, sections: list[str]) -> tuple[str, str, str]:
    """Recover sections without a title from surplus paragraphs and sentences of the other sections."""
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
    if len(text.split()) <= _MAX_LABEL_WORDS:
        return "", "", text
    key, conclusion = _split_conclusion(text)
    key, interpretation = _split_interpretation(key) if conclusion else (key, "")
    return key, interpretation, conclusion


# Contexts in which "left" is a form of "leave" or "right" is not a side: "is left with", "nothing left", "left behind",
# "right away" (but not "on the left over the brow"), "the right balance". The same rules apply to both words,
# which makes mirroring its own inverse.
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
_MAX_CONTEXT = 16


def mirror_text(text: str) -> str:
    """Swap left and right in a text, preserving case. Applying it twice restores the text.

    Args:
        text: English prose about a face.

    Returns:
        Prose about the horizontally flipped face. "Left" as a form of "leave" ("left behind", "is left with") and
        "right" with another meaning ("right away", "the right word") stay unchanged.
    """
    return _SIDE.sub(_swap_side, text)


def _swap_side(match: re.Match[str]) -> str:
    text, start, end = match.string, match.start(), match.end()
    before = text[max(0, start - _MAX_CONTEXT) : start]
    if not match[2] and (
        _RIGHTNESS_AFTER.match(text, end)
        or _REMAINDER_BEFORE.search(before)
        or (_PARTICLE_AFTER.match(text, end) and not _DETERMINER_BEFORE.search(before))
        or (_VERB_BEFORE.search(before) and not _SIDE_AFTER.match(text, end))
    ):
        return match[0]
    return _OTHER_SIDE.get(match[1], match[1]) + match[2]
