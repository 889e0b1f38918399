"""The Exp-CoT Score (paper, Section III-B-7): a judge's three scores for each chain of thought, normalized."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torchmetrics import Metric

MAX_SCORE = 5.0
"""Maximum of each of the three scores."""


@dataclass(frozen=True)
class Judgment:
    """A judge's scores for one generated chain of thought, compared with a reference."""

    key_observations: float
    """Agreement of the action units and their intensities, 0 to 5."""
    interpretation: float
    """Agreement of the action-unit combinations and their emotions, 0 to 5."""
    conclusion: float
    """Agreement of the concluded expressions: 0 or 5."""

    @property
    def score(self) -> float:
        """The Exp-CoT Score in [0, 1]: the sum of the three scores, divided by 15."""
        return (self.key_observations + self.interpretation + self.conclusion) / (3 * MAX_SCORE)


def exp_cot_score(judgments: Iterable[Judgment]) -> dict[str, float]:
    """Average the judgments of several chains of thought, as in the paper's Table III.

    Returns:
        ``key_observations``, ``interpretation``, ``conclusion`` (means in [0, 5]), ``score`` (in [0, 1]), ``count``.
        The means of an empty list are NaN.
    """
    judgments = list(judgments)
    names = ("key_observations", "interpretation", "conclusion")
    return _means([sum(getattr(judgment, name) for judgment in judgments) for name in names], len(judgments))


class ExpCoTScore(Metric):
    """The stateful form of `exp_cot_score`, accumulated over batches and ranks."""

    sums: torch.Tensor
    full_state_update = False

    def __init__(self, **settings: Any) -> None:
        """Initialize the sums to zero; `settings` are those of `torchmetrics.Metric`."""
        super().__init__(**settings)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, judgments: Iterable[Judgment]) -> None:
        """Add judgments."""
        for judgment in judgments:
            values = (judgment.key_observations, judgment.interpretation, judgment.conclusion, 1.0)
            self.sums += torch.tensor(values, dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float]:
        """Return the means over all judgments."""
        *sums, count = self.sums.tolist()
        return _means(sums, count)


def _means(sums: Sequence[float], count: float) -> dict[str, float]:
    means = Judgment(*(value / count if count else float("nan") for value in sums))
    return {**asdict(means), "score": means.score, "count": int(count)}
