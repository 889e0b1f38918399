"""How good chains of thought are, measured without any judge: form, agreement with the label, grounding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.grounding import STRONG, ground


@dataclass(frozen=True)
class TextCounts:
    """What one text adds to the sums; all that is needed to average over any set of texts."""

    texts: float = 1.0
    """1."""
    complete: float = 0.0
    """Whether all three sections are there."""
    words: float = 0.0
    """Words, titles included."""
    over_limit: float = 0.0
    """Whether there are more than 130 of them (paper, Section III-B-6)."""
    labeled: float = 0.0
    """Whether a label was said first."""
    agrees: float = 0.0
    """Whether the conclusion arrives at that label."""
    undecided: float = 0.0
    """Whether the text arrives at no expression."""
    grounded: float = 0.0
    """Whether the face has measured action units."""
    claimed_active: float = 0.0
    """Units claimed present that are active."""
    claimed: float = 0.0
    """Units claimed present."""
    active: float = 0.0
    """Units that are active."""
    strong_claimed: float = 0.0
    """Strong units, of `explllm.explanations.grounding.STRONG` or more, that are claimed present."""
    strong: float = 0.0
    """Strong units."""
    unsupported: float = 0.0
    """Units claimed present whose intensity is 0."""
    side_errors: float = 0.0
    """Units claimed on the wrong side."""
    intensities: float = 0.0
    """Whether any claim has a word for the intensity."""
    intensity_agreement: float = 0.0
    """Share of these words that fit."""


def text_counts(text: str, label: Expression | None, action_units: Sequence[float | None] | None) -> TextCounts:
    """Measure one text.

    Args:
        text: The chain of thought.
        label: The label that was said first, if any.
        action_units: 24 intensities in [0, 1], with None for a unit that was not measured; None leaves grounding out.

    Returns:
        The counts.
    """
    cot, words = ChainOfThought.parse(text), len(text.split())
    verdict = cot.expression
    counts: dict[str, float] = {
        "complete": all(cot.sections),
        "words": words,
        "over_limit": words > MAX_WORDS,
        "labeled": label is not None,
        "agrees": label is not None and verdict == label,
        "undecided": verdict is None,
    }
    if action_units is not None:
        found = ground(text, action_units)
        strong = sum(intensity is not None and intensity >= STRONG for intensity in action_units)
        counts |= {
            "grounded": 1,
            "claimed_active": found.supported_count,
            "claimed": found.claimed_count,
            "active": found.active_count,
            "strong_claimed": strong - len(found.missing),
            "strong": strong,
            "unsupported": len(found.unsupported),
            "side_errors": len(found.side_errors),
            "intensities": found.intensity_agreement is not None,
            "intensity_agreement": found.intensity_agreement or 0.0,
        }
    return TextCounts(**{name: float(value) for name, value in counts.items()})


def added(counts: Iterable[TextCounts]) -> TextCounts:
    """Add the counts of texts up."""
    rows = [[getattr(one, field.name) for field in fields(TextCounts)] for one in counts]
    return TextCounts(*(sum(column) for column in zip(*rows, strict=True))) if rows else TextCounts(texts=0)


def summary(sums: TextCounts) -> dict[str, float | None]:
    """Turn sums over texts into shares.

    Args:
        sums: The counts of all texts, added up.

    Returns:
        ``count``, ``complete``, ``words`` (mean), ``over_limit``, ``agreement`` (of the conclusion with the label said
        first), ``undecided``; of texts with measured action units ``grounding_precision``, ``grounding_recall`` (of
        active units), ``grounding_recall_strong`` (of those of 0.3 or more), ``grounding_f1`` (over all units of all
        texts), ``unsupported`` (share of claims that are of absent units), ``side_errors`` (for each text),
        ``intensity_agreement``. None where there is nothing to divide by.
    """
    precision, recall = _share(sums.claimed_active, sums.claimed), _share(sums.claimed_active, sums.active)
    return {
        "count": sums.texts,
        "complete": _share(sums.complete, sums.texts),
        "words": _share(sums.words, sums.texts),
        "over_limit": _share(sums.over_limit, sums.texts),
        "agreement": _share(sums.agrees, sums.labeled),
        "undecided": _share(sums.undecided, sums.texts),
        "grounding_precision": precision,
        "grounding_recall": recall,
        "grounding_recall_strong": _share(sums.strong_claimed, sums.strong),
        "grounding_f1": _share(2 * sums.claimed_active, sums.claimed + sums.active),
        "unsupported": _share(sums.unsupported, sums.claimed),
        "side_errors": _share(sums.side_errors, sums.grounded),
        "intensity_agreement": _share(sums.intensity_agreement, sums.intensities),
    }


def chain_of_thought_metrics(
    texts: Sequence[str], labels: Sequence[Expression | None], action_units: Sequence[Sequence[float | None] | None]
) -> dict[str, float | None]:
    """Measure texts in this process alone; `ChainOfThoughtMetrics` does it over ranks.

    Args:
        texts: Chains of thought.
        labels: The labels that were said first.
        action_units: For each face 24 intensities, or None.

    Returns:
        What `summary` gives.
    """
    return summary(added(text_counts(*row) for row in zip(texts, labels, action_units, strict=True)))


class ChainOfThoughtMetrics(Metric):
    """`summary` over batches and ranks."""

    sums: torch.Tensor
    full_state_update = False

    def __init__(self, **settings: Any) -> None:
        """Begin with no texts.

        Args:
            **settings: See `torchmetrics.Metric`.
        """
        super().__init__(**settings)
        empty = torch.zeros(len(fields(TextCounts)), dtype=torch.float64)
        self.add_state("sums", empty, dist_reduce_fx="sum")

    def update(
        self,
        texts: Sequence[str],
        labels: Sequence[Expression | None],
        action_units: Sequence[Sequence[float | None] | None],
    ) -> None:
        """Add texts.

        Args:
            texts: B chains of thought.
            labels: B labels that were said first.
            action_units: For each face 24 intensities, or None.
        """
        for text, label, units in zip(texts, labels, action_units, strict=True):
            counts = text_counts(text, label, units)
            values = [getattr(counts, field.name) for field in fields(TextCounts)]
            self.sums += torch.tensor(values, dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float | None]:
        """Return the summary of all texts."""
        return summary(TextCounts(*self.sums.tolist()))


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
