"""The Exp-CoT Score (paper, Section III-B-7): a judge's three scores for each chain of thought, normalized."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric

MAX_SCORE = 5.0
"""The greatest of each of the three scores."""


@dataclass(frozen=True)
class Judgment:
    """A judge's scores for one generated chain of thought against a reference."""

    key_observations: float
    """Agreement of action units and intensities, from 0 to 5."""
    interpretation: float
    """Agreement of combinations of action units and their emotions, from 0 to 5."""
    conclusion: float
    """Whether both arrive at the same expression: 0 or 5."""

    @property
    def score(self) -> float:
        """The Exp-CoT Score in [0, 1]: the sum of the three over 15."""
        return (self.key_observations + self.interpretation + self.conclusion) / (3 * MAX_SCORE)


def exp_cot_score(judgments: Iterable[Judgment]) -> dict[str, float]:
    """Average judgments as the paper's Table III shows them.

    Args:
        judgments: One for each chain of thought.

    Returns:
        ``key_observations``, ``interpretation``, ``conclusion`` (means in [0, 5]), ``score`` (in [0, 1]), ``count``.
        Without judgments the means are not a number.
    """
    given = list(judgments)
    names = ("key_observations", "interpretation", "conclusion")
    return _means([sum(getattr(judgment, name) for judgment in given) for name in names], len(given))


class ExpCoTScore(Metric):
    """`exp_cot_score` over batches and ranks."""

    sums: torch.Tensor
    full_state_update = False

    def __init__(self, **settings: Any) -> None:
        """Begin with no judgments.

        Args:
            **settings: See `torchmetrics.Metric`.
        """
        super().__init__(**settings)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, judgments: Iterable[Judgment]) -> None:
        """Add judgments."""
        for judgment in judgments:
            values = (judgment.key_observations, judgment.interpretation, judgment.conclusion, 1.0)
            self.sums += torch.tensor(values, dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float]:
        """Return the means."""
        *sums, count = self.sums.tolist()
        return _means(sums, count)


def _means(sums: Sequence[float], count: float) -> dict[str, float]:
    key, interpretation, conclusion = (value / count if count else float("nan") for value in sums)
    score = Judgment(key, interpretation, conclusion).score
    return {
        "key_observations": key,
        "interpretation": interpretation,
        "conclusion": conclusion,
        "score": score,
        "count": int(count),
    }
