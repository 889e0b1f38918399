"""Grounding gain: how much better texts describe their own face than other faces of the same predicted class."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.claims import claims
from explllm.explanations.grounding import Grounding, ground_claims
from explllm.metrics.bootstrap import RESAMPLES, percentile_interval

SWAPS = 10
"""Maximum number of other texts that each face is compared with."""

_RESAMPLES_AT_ONCE = 50


def grounding_gain(
    texts: Sequence[str],
    labels: Sequence[Expression | None],
    action_units: Sequence[Sequence[float | None] | None],
    resamples: int = RESAMPLES,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Compute the grounding gain: F1 of texts on their own faces minus F1 after swapping texts within a class.

    A model that only describes the stereotype of the predicted class has a high F1 but no gain. F1 is micro-averaged
    over the claims of all texts. Each face is compared with the texts of up to `SWAPS` other faces with the same
    predicted class; counts are averaged over these texts. The interval comes from a bootstrap over faces.

    Args:
        texts: N chains of thought.
        labels: The predicted label that each text follows; None stands for the expression in the text's conclusion.
        action_units: 24 intensities per face, with None for a unit that was not measured. A face without measurements
            has None instead of the 24 intensities.
        resamples: Number of bootstrap resamples.
        seed: Seed of the swaps and of the resampling.
        weights: 24 weights of the units, as for `explllm.explanations.grounding.ground`.

    Returns:
        ``grounding_gain``, ``grounding_gain_interval`` (95%), ``grounding_f1_own``, ``grounding_f1_swapped`` and
        ``grounding_gain_faces``, the number of faces that could be compared. All but the last are None if no two faces
        with measured action units have the same predicted class, or if nothing is claimed and no unit is active.
    """
    classes: dict[Expression | None, list[int]] = defaultdict(list)
    for row, (text, label, units) in enumerate(zip(texts, labels, action_units, strict=True)):
        if units is not None:
            classes[label or ChainOfThought.parse(text).expression].append(row)
    generator = np.random.default_rng(seed)
    claims_by_row = {row: claims(texts[row]) for rows in classes.values() if len(rows) > 1 for row in rows}
    counts = []
    for rows in classes.values():
        order = generator.permutation(rows)
        for position, row in enumerate(order if len(order) > 1 else ()):
            units = action_units[row] or ()
            own = ground_claims(claims_by_row[row], units, weights=weights)
            others = [
                ground_claims(claims_by_row[order[(position + shift) % len(order)]], units, weights=weights)
                for shift in range(1, min(SWAPS, len(order) - 1) + 1)
            ]
            counts.append([_counts([own]), _counts(others)])
    table = np.array(counts, dtype=float).reshape(-1, 8)
    own_f1, swapped_f1 = map(float, _f1_scores(table.sum(0)))
    if np.isnan(own_f1) or np.isnan(swapped_f1):
        values: dict[str, Any] = dict.fromkeys(("gain", "gain_interval", "f1_own", "f1_swapped"))
    else:
        values = {
            "gain": own_f1 - swapped_f1,
            "gain_interval": _interval(table, resamples, generator),
            "f1_own": own_f1,
            "f1_swapped": swapped_f1,
        }
    return {**{f"grounding_{name}": value for name, value in values.items()}, "grounding_gain_faces": len(table)}


def _interval(table: np.ndarray, resamples: int, generator: np.random.Generator) -> list[float]:
    gains: list[float] = []
    shares = np.full(len(table), 1 / len(table))
    while len(gains) < resamples:
        # Compute in chunks: the weights of all resamples together would need 8 bytes x resamples x faces.
        weights = generator.multinomial(len(table), shares, size=min(_RESAMPLES_AT_ONCE, resamples - len(gains)))
        own, swapped = _f1_scores((weights @ table).T)
        gains += (own - swapped).tolist()
    finite = np.array(gains)[np.isfinite(gains)]
    return list(percentile_interval(finite))


def micro_f1(supported: ArrayLike, claimed: ArrayLike, recalled: ArrayLike, active: ArrayLike) -> np.ndarray:
    """Return the harmonic mean of precision and recall over all texts, from sums of `Grounding`'s counts.

    A claim with an alternative ("one brow is raised") may be supported by a unit that it does not name first, so the
    numerators of precision and recall differ.

    Args:
        supported: Numerator of precision.
        claimed: Denominator of precision.
        recalled: Numerator of recall.
        active: Denominator of recall.

    Returns:
        F1, in the shape of the sums; 0 if nothing is both claimed and active, NaN if both denominators are 0.
    """
    supported, claimed, recalled, active = map(np.asarray, (supported, claimed, recalled, active))
    with np.errstate(invalid="ignore", divide="ignore"):
        # 2 P R / (P + R) with P = supported / claimed and R = recalled / active.
        f1 = 2 * supported * recalled / (supported * active + recalled * claimed)
        return np.where((supported * recalled == 0) & (claimed + active > 0), 0.0, f1)


def _counts(groundings: Sequence[Grounding]) -> list[float]:
    """Return the means of the counts for `micro_f1`."""
    rows = [(one.supported_count, one.claimed_count, one.recalled_count, one.active_count) for one in groundings]
    return np.mean(rows, axis=0).tolist()


def _f1_scores(sums: np.ndarray) -> tuple[Any, Any]:
    """Return the F1 of own texts and of swapped texts, from sums (8,) or (8, R)."""
    return micro_f1(*sums[:4]), micro_f1(*sums[4:])
