"""Whether two models differ by more than chance on the same faces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

EXACT_UP_TO = 1000
"""Discordant faces up to which McNemar's test is computed exactly."""


@dataclass(frozen=True)
class McNemar:
    """The result of McNemar's test."""

    p_value: float
    """Probability of a difference at least as large between two models that are equally good; two-sided."""
    method: Literal["exact", "continuity-corrected"]
    """How it was computed."""


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Test whether two models recognize equally many faces; only faces that one of them recognizes have a say.

    Args:
        only_first: Faces that only the first model recognizes.
        only_second: Faces that only the second one recognizes.

    Returns:
        The exact binomial test for up to `EXACT_UP_TO` such faces, else the chi-squared test with Edwards's continuity
        correction (McNemar 1947, Edwards 1948), which then agrees to about three digits.
    """
    discordant = only_first + only_second
    if discordant <= EXACT_UP_TO:
        tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
        return McNemar(min(1.0, 2 * tail / 2**discordant), "exact")
    chi_squared = max(abs(only_first - only_second) - 1, 0) ** 2 / discordant
    return McNemar(math.erfc(math.sqrt(chi_squared / 2)), "continuity-corrected")


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for how many comparisons were made (Holm 1979).

    Args:
        p_values: One for each comparison.

    Returns:
        The corrected ones, in the same order.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
