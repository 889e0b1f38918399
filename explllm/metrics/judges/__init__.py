"""Judges of chains of thought: the registry, and the interface that every judge implements.

A judge compares a generated chain of thought with a reference and gives the three scores of the Exp-CoT Score. To add
a judge, put a file into this folder; every module here is imported when a judge is looked up:

    from explllm.metrics.exp_cot_score import MAX_SCORE, Judgment
    from explllm.metrics.judges import RuleJudge, register_judge

    @register_judge("overlap")
    class OverlapJudge(RuleJudge):
        name = "overlap (shared words)"

        def compare(self, generated, reference):
            mine, theirs = set(generated.split()), set(reference.split())
            share = len(mine & theirs) / max(len(mine | theirs), 1)
            return Judgment(MAX_SCORE * share, MAX_SCORE * share, MAX_SCORE * (share > 0.5))

`explllm score TABLE --reference REFERENCE --judge overlap` then uses it. A name that is not registered is taken to
be a model on an OpenAI-compatible server; see `explllm.metrics.judges.chat`.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from explllm.metrics.exp_cot_score import Judgment

__all__ = ["Judge", "RuleJudge", "find_judge", "register_judge", "registered_judges"]


class Judge(ABC):
    """Compares a generated chain of thought with a reference. Registered judges are constructed without arguments."""

    name: str
    """Name printed next to every score, because scores of different judges are not comparable."""

    @abstractmethod
    async def judge(self, generated: str, reference: str, scope: str) -> Judgment:
        """Return the scores of a generated text, compared with a reference; `scope` identifies the face in the ledger.

        Raises:
            ChatFailure: If a request to a server fails permanently, or no answer can be parsed.
        """


class RuleJudge(Judge):
    """A judge that calls no server; a subclass implements `compare` instead of `judge`."""

    @abstractmethod
    def compare(self, generated: str, reference: str) -> Judgment:
        """Return the scores of a generated text, compared with a reference."""

    async def judge(self, generated: str, reference: str, scope: str) -> Judgment:
        """Return the result of `compare`."""
        return self.compare(generated, reference)


_REGISTRY: dict[str, type[Judge]] = {}
_JudgeType = TypeVar("_JudgeType", bound=type[Judge])


def register_judge(name: str) -> Callable[[_JudgeType], _JudgeType]:
    """Return a class decorator that registers a judge under the name that ``--judge`` takes.

    Raises:
        ValueError: If another class has this name.
    """

    def register(judge: _JudgeType) -> _JudgeType:
        existing = _REGISTRY.setdefault(name, judge)
        # A module that is reloaded registers its class again.
        if existing.__qualname__ != judge.__qualname__:
            raise ValueError(f"two judges are named {name!r}: {existing.__qualname__} and {judge.__qualname__}")
        _REGISTRY[name] = judge
        return judge

    return register


def registered_judges() -> tuple[str, ...]:
    """Return the names of all registered judges, sorted."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_REGISTRY))


def find_judge(name: str) -> Judge | None:
    """Return a new judge of this name; None if the name is not registered and therefore names a model on a server."""
    return _REGISTRY[name]() if name in registered_judges() else None
