"""Judges of chains of thought, behind one interface: a language model, and rules that cost nothing."""

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from explllm.core.action_units import FEAFA
from explllm.core.expressions import SYNONYMS, Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.grounding import Claim, claims
from explllm.explanations.verdict import is_ambiguous, score, verdict
from explllm.llm.prompt import render, version
from explllm.llm.reading import UnreadableAnswer, ask_until_read, without_thoughts
from explllm.llm.request import ChatAnswer, ChatFailure, ChatMessage, ChatRequest
from explllm.metrics.exp_cot_score import MAX_SCORE, Judgment

_PARTS = ("key_observations", "overall_emotional_interpretation", "conclusion")
SCHEMA = {
    "title": "scores",
    "type": "object",
    "properties": {
        "key_observations": {"type": "number", "minimum": 0, "maximum": 5},
        "overall_emotional_interpretation": {"type": "number", "minimum": 0, "maximum": 5},
        "conclusion": {"type": "number", "enum": [0, 5]},
    },
    "required": list(_PARTS),
    "additionalProperties": False,
}
_ATTEMPTS = 3
_WANTED = f"one JSON object of three numbers, {', '.join(_PARTS)}: the first two from 0 to 5, the third 0 or 5"


class Judge(Protocol):
    """Whatever compares a generated chain of thought with a reference."""

    @property
    def name(self) -> str:
        """Who judges; stands beside every score, because scores of different judges cannot be compared."""
        ...

    async def judge(self, generated: str, reference: str, scope: str) -> Judgment:
        """Compare two chains of thought about one face.

        Args:
            generated: The text to be judged.
            reference: The text that it is held against.
            scope: Whose face it is, for the ledger.

        Returns:
            The scores.

        Raises:
            ChatFailure: If the judge gives none that can be read.
        """
        ...


class ChatJudge:
    """A language model as judge: structured answers at temperature 0; every answer stands in the ledger."""

    def __init__(self, client: "Asks", model: str) -> None:
        """Keep who answers.

        Args:
            client: A `explllm.llm.client.ChatClient`.
            model: The model's name, for `name`.
        """
        self.client, self.model = client, model

    @property
    def name(self) -> str:
        """The model, and the prompt by its hash."""
        return f"{self.model}, prompt {version('explllm.metrics', 'judge')}"

    async def judge(self, generated: str, reference: str, scope: str) -> Judgment:
        """Ask the model; an answer that cannot be read is asked for again, three times in all."""
        question = render("explllm.metrics", "judge", generated=generated, reference=reference)
        messages = (ChatMessage("user", question),)
        request = ChatRequest(scope, "judge", 0, messages, SCHEMA, max_tokens=128)
        try:
            return await ask_until_read(self.client.ask, request, parse_judgment, _WANTED, _ATTEMPTS)
        except UnreadableAnswer as error:
            raise ChatFailure(f"judge: {error}") from None


class Asks(Protocol):
    """The part of `explllm.llm.client.ChatClient` that a judge needs."""

    async def ask(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer to a request."""
        ...


class OfflineJudge:
    """A judge by rules, deterministic and free. Its scores are its own: they are not those of a language model.

    The paper leaves the scores to GPT-4o; these formulas are this project's. With F1 = 2 x shared / (mine + theirs):

    - Key observations: 5 times the F1 of the action units that the two sections claim, where a shared unit counts by
      how alike its two intensities are: 1 - |a - b|, a and b being the middles of the ranges that the words mean (the
      mean, if a unit is graded several times); 1 if neither has a word; 0.75 if only one has. A side that is claimed
      more often than the other counts as one claim more: that says which side moves the more.
    - Interpretation: 5 times the F1 of the expressions that the two sections name and do not deny.
    - Conclusion: 5 if both arrive at the same expression, else 0: by what the conclusion itself says, unless that of
      the reference speaks of none; 0 for one that speaks for several alike where the reference does not.

    A section that stands under its title in the reference must have its title in the generated text as well, unless
    that has no titles at all; without, it counts as missing, and a missing section gets 0.
    """

    name = "offline (rules: action units claimed, expressions named)"

    async def judge(self, generated: str, reference: str, scope: str) -> Judgment:
        """Compare two texts; see the class."""
        return self.compare(generated, reference)

    def compare(self, generated: str, reference: str) -> Judgment:
        """Compare two texts; the same without waiting."""
        mine, theirs = _sections(generated, reference)
        return Judgment(
            MAX_SCORE * _observations(mine.key_observations, theirs.key_observations),
            MAX_SCORE * _interpretations(mine.interpretation, theirs.interpretation),
            MAX_SCORE * _conclusions(mine, theirs),
        )


def parse_judgment(text: str) -> Judgment | None:
    """Read a judge's answer: a JSON object, in a code fence or in prose as well; None if there is no valid one."""
    found = re.search(r"\{[^{}]*\}", without_thoughts(text))
    try:
        values: Any = json.loads(found[0]) if found else None
        key, interpretation, conclusion = (float(values[part]) for part in _PARTS)
    except (ValueError, TypeError, KeyError):
        return None
    if not (0 <= key <= MAX_SCORE and 0 <= interpretation <= MAX_SCORE and conclusion in (0, MAX_SCORE)):
        return None
    return Judgment(key, interpretation, conclusion)


_WORD = re.compile(r"[a-z]+")

_HALF_GRADED = 0.75
"""How alike two claims of a unit are of which one has no word for the intensity: less a quarter, which is how far
intensities in [0, 1] lie from the middle on average."""


def _sections(generated: str, reference: str) -> tuple[ChainOfThought, ChainOfThought]:
    """Split two texts alike: by titles where the reference has them, else by what `ChainOfThought.parse` recovers."""
    mine, theirs = ChainOfThought.parse(generated), ChainOfThought.parse(reference)
    titled, told = ChainOfThought.parse(generated, recover=False), ChainOfThought.parse(reference, recover=False)
    if not any(titled.sections):
        return mine, theirs
    return _where(told, titled, mine), _where(told, told, theirs)


def _where(told: ChainOfThought, titled: ChainOfThought, recovered: ChainOfThought) -> ChainOfThought:
    """Take the titled sections where `told` has any, the recovered ones elsewhere."""
    rows = zip(told.sections, titled.sections, recovered.sections, strict=True)
    key, interpretation, conclusion = (own if there else found for there, own, found in rows)
    return ChainOfThought(key, interpretation, conclusion, recovered.text)


def _observations(mine: str, theirs: str) -> float:
    if bool(mine) != bool(theirs):
        return 0.0
    one, other = _grades(claims(mine)), _grades(claims(theirs))
    if not one and not other:
        return 1.0
    shared = sum(_alike(one[claim], other[claim]) for claim in one.keys() & other.keys())
    return 2 * shared / (len(one) + len(other))


def _alike(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 1.0 if one is other else _HALF_GRADED
    return 1 - abs(one - other)


def _grades(found: Sequence[Claim]) -> dict[tuple[int, bool], float | None]:
    """Return the units claimed present with their intensities, and (unit, True) for a side claimed more often."""
    middles: dict[int, list[float | None]] = {}
    for claim in found:
        if claim.present:
            middle = None if claim.low is None or claim.high is None else (claim.low + claim.high) / 2
            middles.setdefault(claim.unit, []).append(middle)
    grades: dict[tuple[int, bool], float | None] = {}
    for unit, of_unit in middles.items():
        graded = [middle for middle in of_unit if middle is not None]
        grades[unit, False] = sum(graded) / len(graded) if graded else None
        if 0 < len(middles.get(FEAFA[unit].mirror, ())) < len(of_unit):
            grades[unit, True] = None
    return grades


def _interpretations(mine: str, theirs: str) -> float:
    if bool(mine) != bool(theirs):
        return 0.0
    one, other = _named(mine), _named(theirs)
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def _named(text: str) -> set[Expression]:
    """Return the expressions that a text names and does not deny."""
    scores = score(text)
    named = {SYNONYMS[word] for word in _WORD.findall(text.lower()) if word in SYNONYMS}
    return {expression for expression in named if scores.get(expression, 0.0) > 0}


def _conclusions(mine: ChainOfThought, theirs: ChainOfThought) -> float:
    if bool(mine.conclusion) != bool(theirs.conclusion):
        return 0.0
    if is_ambiguous(mine.conclusion) and not is_ambiguous(theirs.conclusion):
        return 0.0  # whoever names all is right with none
    one, other = verdict(mine.conclusion), verdict(theirs.conclusion)
    if other is None:
        one, other = mine.expression, theirs.expression
    return float(one is not None and one == other)
