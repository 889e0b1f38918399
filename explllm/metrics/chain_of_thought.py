"""Metrics of chains of thought that need no judge: form, agreement with the label, grounding in action units."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.consistency import check_consistency
from explllm.explanations.grounding import STRONG, ground
from explllm.metrics.grounding_gain import micro_f1


@dataclass(frozen=True)
class TextCounts:
    """Counts for one text, or their sums over texts, from which all metrics are computed."""

    texts: float = 1.0
    """Number of texts."""
    complete: float = 0.0
    """Texts with all three sections."""
    words: float = 0.0
    """Words, including titles."""
    over_limit: float = 0.0
    """Texts of more than 130 words (paper, Section III-B-6)."""
    labeled: float = 0.0
    """Texts that follow a label."""
    agrees: float = 0.0
    """Texts whose conclusion agrees with the label that they follow."""
    undecided: float = 0.0
    """Texts whose conclusion names no expression."""
    interpreted: float = 0.0
    """Texts with key observations and an interpretation."""
    contradictory: float = 0.0
    """Texts that contradict themselves; see `explllm.explanations.consistency`."""
    interpretation_denied: float = 0.0
    """Texts whose interpretation names a unit that the key observations deny."""
    interpretation_unaffirmed: float = 0.0
    """Texts whose interpretation names a unit that the key observations do not affirm."""
    grounded: float = 0.0
    """Texts about a face with measured action units."""
    claimed_active: float = 0.0
    """Units claimed present that are active or have an active alternative."""
    claimed: float = 0.0
    """Units claimed present."""
    recalled: float = 0.0
    """Active units that are claimed present."""
    active: float = 0.0
    """Units that are active."""
    strong_claimed: float = 0.0
    """Strong units that are claimed present; see `explllm.explanations.grounding.STRONG`."""
    strong: float = 0.0
    """Strong units."""
    unsupported: float = 0.0
    """Units claimed present whose intensity is 0."""
    side_errors: float = 0.0
    """Units claimed on the wrong side."""
    intensities: float = 0.0
    """Texts with at least one intensity word."""
    intensity_agreement: float = 0.0
    """Share of the intensity words that fit, summed over the texts with at least one intensity word."""


def text_counts(
    text: str,
    label: Expression | None,
    action_units: Sequence[float | None] | None,
    weights: Sequence[float] | None = None,
) -> TextCounts:
    """Return the counts for one text.

    Args:
        text: The chain of thought.
        label: The label that the text follows, if any.
        action_units: 24 intensities in [0, 1], with None for a unit that was not measured. If the argument
            is None, grounding is skipped.
        weights: 24 weights of the units, as for `explllm.explanations.grounding.ground`.
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
    if cot.key_observations and cot.interpretation:
        consistency = check_consistency(cot)
        counts |= {
            "interpreted": 1,
            "contradictory": consistency.contradicts_itself,
            "interpretation_denied": bool(consistency.denied),
            "interpretation_unaffirmed": bool(consistency.unaffirmed),
        }
    if action_units is not None:
        grounding = ground(text, action_units, weights=weights)
        strong = sum(intensity is not None and intensity >= STRONG for intensity in action_units)
        counts |= {
            "grounded": 1,
            "claimed_active": grounding.supported_count,
            "claimed": grounding.claimed_count,
            "recalled": grounding.recalled_count,
            "active": grounding.active_count,
            "strong_claimed": strong - len(grounding.missing),
            "strong": strong,
            "unsupported": grounding.unsupported_count,
            "side_errors": len(grounding.side_errors),
            "intensities": grounding.intensity_agreement is not None,
            "intensity_agreement": grounding.intensity_agreement or 0.0,
        }
    return TextCounts(**{name: float(value) for name, value in counts.items()})


def sum_counts(counts: Iterable[TextCounts]) -> TextCounts:
    """Sum the counts of several texts."""
    rows = [astuple(count) for count in counts]
    return TextCounts(*(sum(column) for column in zip(*rows, strict=True))) if rows else TextCounts(texts=0)


def summarize_counts(sums: TextCounts) -> dict[str, float | None]:
    """Compute the metrics from sums over texts.

    Returns:
        ``count``; ``words``, the mean; ``complete``, ``over_limit`` and ``undecided``, shares of texts; ``agreement``,
        the share of the labeled texts with a conclusion that agrees with the label. For texts with key observations and
        an interpretation: ``self_contradiction``, ``interpretation_denied`` and ``interpretation_unaffirmed``, shares
        of texts. For texts about faces with measured action units: ``grounding_precision``, ``grounding_recall`` (of
        the active units), ``grounding_recall_strong`` (of the units with an intensity of at least 0.3),
        ``grounding_f1`` (micro average over all texts), ``unsupported`` (share of the claimed units whose intensity is
        0), ``side_errors`` (per text) and ``intensity_agreement`` (mean share of the intensity words that fit). A
        metric is None if its denominator is 0.
    """
    f1 = float(micro_f1(sums.claimed_active, sums.claimed, sums.recalled, sums.active))
    return {
        "count": sums.texts,
        "complete": _share(sums.complete, sums.texts),
        "words": _share(sums.words, sums.texts),
        "over_limit": _share(sums.over_limit, sums.texts),
        "agreement": _share(sums.agrees, sums.labeled),
        "undecided": _share(sums.undecided, sums.texts),
        "self_contradiction": _share(sums.contradictory, sums.interpreted),
        "interpretation_denied": _share(sums.interpretation_denied, sums.interpreted),
        "interpretation_unaffirmed": _share(sums.interpretation_unaffirmed, sums.interpreted),
        "grounding_precision": _share(sums.claimed_active, sums.claimed),
        "grounding_recall": _share(sums.recalled, sums.active),
        "grounding_recall_strong": _share(sums.strong_claimed, sums.strong),
        "grounding_f1": None if math.isnan(f1) else f1,
        "unsupported": _share(sums.unsupported, sums.claimed),
        "side_errors": _share(sums.side_errors, sums.grounded),
        "intensity_agreement": _share(sums.intensity_agreement, sums.intensities),
    }


def chain_of_thought_metrics(
    texts: Sequence[str], labels: Sequence[Expression | None], action_units: Sequence[Sequence[float | None] | None]
) -> dict[str, float | None]:
    """Compute the metrics that `summarize_counts` describes; for several ranks, use `ChainOfThoughtMetrics`.

    Args:
        texts: Chains of thought.
        labels: The label that each text follows.
        action_units: 24 intensities per face, or None.
    """
    return summarize_counts(sum_counts(text_counts(*row) for row in zip(texts, labels, action_units, strict=True)))


class ChainOfThoughtMetrics(Metric):
    """The stateful form of `chain_of_thought_metrics`, accumulated over batches and ranks."""

    sums: torch.Tensor
    full_state_update = False

    def __init__(self, **settings: Any) -> None:
        """Initialize the sums to zero; `settings` are those of `torchmetrics.Metric`."""
        super().__init__(**settings)
        empty = torch.zeros(len(fields(TextCounts)), dtype=torch.float64)
        self.add_state("sums", empty, dist_reduce_fx="sum")

    def update(
        self,
        texts: Sequence[str],
        labels: Sequence[Expression | None],
        action_units: Sequence[Sequence[float | None] | None],
    ) -> None:
        """Add texts; see `chain_of_thought_metrics`."""
        for text, label, units in zip(texts, labels, action_units, strict=True):
            counts = text_counts(text, label, units)
            self.sums += torch.tensor(astuple(counts), dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float | None]:
        """Return the metrics of all texts."""
        return summarize_counts(TextCounts(*self.sums.tolist()))


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
