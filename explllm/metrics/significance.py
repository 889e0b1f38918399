"""Significance tests for two models evaluated on the same faces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

EXACT_UP_TO = 1000
"""Maximum number of discordant faces for which McNemar's test is computed exactly."""


@dataclass(frozen=True)
class McNemar:
    """The result of McNemar's test."""

    p_value: float
    """Two-sided p-value under the null hypothesis that both models are equally accurate."""
    method: Literal["exact", "continuity-corrected"]
    """How the p-value was computed."""


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Test whether two models are equally accurate; only faces that exactly one of them recognizes matter.

    Args:
        only_first: Number of faces that only the first model recognizes.
        only_second: Number of faces that only the second model recognizes.

    Returns:
        The exact binomial test for at most `EXACT_UP_TO` discordant faces, else the chi-squared test with continuity
        correction (McNemar 1947, Edwards 1948). At that size, the two tests agree to about three digits.
    """
    discordant = only_first + only_second
    if discordant <= EXACT_UP_TO:
        tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
        return McNemar(min(1.0, 2 * tail / 2**discordant), "exact")
    chi_squared = max(abs(only_first - only_second) - 1, 0) ** 2 / discordant
    return McNemar(math.erfc(math.sqrt(chi_squared / 2)), "continuity-corrected")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple comparisons by Holm's method (Holm 1979), in the order of `p_values`."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
