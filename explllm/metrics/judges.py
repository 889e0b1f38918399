"""Judges of chains of thought, behind one interface: a language model, and rules that cost nothing."""

import json
import re
from typing import Any, Protocol

from explllm.chat.prompt import render, version
from explllm.chat.request import ChatFailure, ChatMessage, ChatRequest
from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.expressions import SYNONYMS, Expression
from explllm.core.grounding import Claim, claims
from explllm.metrics.exp_cot_score import GREATEST, Judgement

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


class Judge(Protocol):
    """Whatever compares a generated chain of thought with a reference."""

    @property
    def name(self) -> str:
        """Who judges; stands beside every score, because scores of different judges cannot be compared."""
        ...

    async def judge(self, generated: str, reference: str, scope: str) -> Judgement:
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
            client: A `explllm.chat.client.ChatClient`.
            model: The model's name, for `name`.
        """
        self.client, self.model = client, model

    @property
    def name(self) -> str:
        """The model, and the prompt by its hash."""
        return f"{self.model}, prompt {version('explllm.metrics', 'judge')}"

    async def judge(self, generated: str, reference: str, scope: str) -> Judgement:
        """Ask the model; an answer that cannot be read is asked for again, three times in all."""
        question = render("explllm.metrics", "judge", generated=generated, reference=reference)
        text = ""
        for attempt in range(_ATTEMPTS):
            answer = await self.client.ask(
                ChatRequest(
                    scope=scope,
                    purpose="judge",
                    round=0,
                    messages=(ChatMessage("user", question),),
                    schema=SCHEMA,
                    max_tokens=128,
                    attempt=attempt,
                )
            )
            text = answer.text
            judgement = read_judgement(text)
            if judgement is not None:
                return judgement
        raise ChatFailure(f"no readable judgement in {_ATTEMPTS} answers, last {text[:80]!r}")


class Asks(Protocol):
    """The part of `explllm.chat.client.ChatClient` that a judge needs."""

    async def ask(self, request: ChatRequest) -> "Answers":
        """Return the answer to a request."""
        ...


class Answers(Protocol):
    """The part of an answer that a judge needs."""

    @property
    def text(self) -> str:
        """What was answered."""
        ...


class OfflineJudge:
    """A judge by rules, deterministic and free. Its scores are its own: they are not those of a language model.

    Key observations: 5 times the F1 of the action units that both texts claim, times the share of intensities that lie
    within one step of each other where both texts grade them. Interpretation: 5 times the F1 of the expressions that
    both interpretations speak of. Conclusion: 5 if both arrive at the same expression.
    """

    name = "offline (rules: action units claimed, expressions named)"

    async def judge(self, generated: str, reference: str, scope: str) -> Judgement:
        """Compare two texts; see the class."""
        return self.compare(generated, reference)

    def compare(self, generated: str, reference: str) -> Judgement:
        """Compare two texts; the same without waiting."""
        one, other = ChainOfThought.parse(generated), ChainOfThought.parse(reference)
        verdict = one.expression
        return Judgement(
            GREATEST * _observations(claims(one.key_observations), claims(other.key_observations)),
            GREATEST * _f1(_named(one.interpretation), _named(other.interpretation)),
            GREATEST if verdict is not None and verdict == other.expression else 0.0,
        )


def read_judgement(text: str) -> Judgement | None:
    """Read a judge's answer: a JSON object, in a code fence or in prose as well; None if there is no valid one."""
    found = re.search(r"\{[^{}]*\}", text)
    try:
        values: Any = json.loads(found[0]) if found else None
        key, interpretation, conclusion = (float(values[part]) for part in _PARTS)
    except (ValueError, TypeError, KeyError):
        return None
    if not (0 <= key <= GREATEST and 0 <= interpretation <= GREATEST and conclusion in (0, GREATEST)):
        return None
    return Judgement(key, interpretation, conclusion)


_STEP = 0.2
"""One step of the words for intensities; see `explllm.core.action_units.INTENSITY_WORDS`."""

_WORD = re.compile(r"[a-z]+")


def _observations(one: list[Claim], other: list[Claim]) -> float:
    mine, theirs = _grades(one), _grades(other)
    both = [(mine[unit], theirs[unit]) for unit in mine.keys() & theirs.keys()]
    graded = [(a, b) for a, b in both if a is not None and b is not None]
    # The small tolerance keeps exactly one step within one step.
    close = sum(abs(a - b) <= _STEP + 1e-9 for a, b in graded) / len(graded) if graded else 1.0
    return _f1(set(mine), set(theirs)) * close


def _grades(found: list[Claim]) -> dict[int, float | None]:
    """Return the units claimed present, with the middle of the range that the word for the intensity means."""
    grades: dict[int, float | None] = {}
    for claim in found:
        if claim.present:
            middle = None if claim.low is None or claim.high is None else (claim.low + claim.high) / 2
            grades[claim.unit] = grades.get(claim.unit) if middle is None else middle
    return grades


def _named(text: str) -> set[Expression]:
    return {SYNONYMS[word] for word in _WORD.findall(text.lower()) if word in SYNONYMS}


def _f1(one: set[int] | set[Expression], other: set[int] | set[Expression]) -> float:
    if not one and not other:
        return 1.0
    return 2 * len(one & other) / (len(one) + len(other))
