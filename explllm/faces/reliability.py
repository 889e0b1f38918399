"""Reliability of measured action units: which units of an estimator can be trusted.

Two properties can be tested without action unit labels. A unit of the mirror image must equal the mirrored unit of the
image, and a unit that belongs to an expression must be stronger in faces with that expression than in others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from explllm.core.action_units import FACS_CODES, NAMES, mirror_action_units
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.explanations.grounding import ACTIVE
from explllm.faces.estimators import Intensities

PRESENT = 0.25
"""Minimum intensity of a unit that counts as present."""

CONFIRMED = 0.8
"""Of the faces at or above a unit's threshold, the minimum share with a mirror image that also shows the unit."""

_THRESHOLDS = tuple(step / 100 for step in range(5, 51, 5))
_MIN_FACES = 5


def unit_reliability(
    plain: Sequence[Intensities | None],
    flipped: Sequence[Intensities | None],
    expressions: Sequence[str | None],
    prototypes: Mapping[Expression, Collection[str]],
) -> pd.DataFrame:
    """Return the reliability of each unit.

    Args:
        plain: Estimates of faces; None for faces without an estimate.
        flipped: Estimates of their mirror images.
        expressions: Their labels; None if unknown.
        prototypes: Names of the units of each expression.

    Returns:
        A row per unit with the columns ``facs`` (its code), ``faces`` (number of faces with both estimates),
        ``mean``, ``present`` (share of faces with at least `PRESENT`), ``flip_correlation`` (Pearson correlation of the
        estimate with the mirrored estimate of the mirror image), ``flip_difference`` (mean absolute difference of the
        two), ``auc`` (probability that a face of an expression with this unit has a higher intensity than a face of
        an expression without it), ``weight`` and ``threshold``. The weight is the product of the correlation and
        2 auc - 1, each limited to [0, 1], or the correlation alone for a unit without an AUC. The threshold is the
        lowest of the intensities 0.05, 0.1, ..., 0.5 that mirror images confirm: at least five images (mirror images
        included) reach this intensity, and for a share of at least `CONFIRMED` of these images, the unit is also active
        (`ACTIVE`) in the mirrored counterpart. The threshold is NaN if there is no such intensity. For an unmeasured
        unit, all columns except ``facs`` and ``faces`` are NaN.

    Raises:
        ConfigError: If no face has both estimates.
    """
    pairs = [
        (units, mirror_action_units(other), label)
        for units, other, label in zip(plain, flipped, expressions, strict=True)
        if units is not None and other is not None
    ]
    if not pairs:
        raise ConfigError("no face has an estimate for both the image and its mirror image", remedy="Check the images.")
    first, second = (np.array([pair[i] for pair in pairs], dtype=float) for i in (0, 1))
    labels = np.array([pair[2] or "" for pair in pairs])
    rows = []
    for unit, name in enumerate(NAMES):
        a, b = first[:, unit], second[:, unit]
        shows = [str(expression) for expression, names in prototypes.items() if name in names]
        correlation = _correlation(a, b)
        auc = _auc(a, np.isin(labels, shows), labels != "")
        weight = max(correlation, 0.0) * (1.0 if np.isnan(auc) else max(2 * auc - 1, 0.0))
        rows.append(
            {
                "unit": name,
                "facs": FACS_CODES[name],
                "faces": len(pairs),
                "mean": a.mean(),
                "present": np.nan if np.isnan(a).any() else (a >= PRESENT).mean(),
                "flip_correlation": correlation,
                "flip_difference": np.abs(a - b).mean(),
                "auc": np.nan if np.isnan(a).any() else auc,
                "weight": np.nan if np.isnan(a).any() else weight,
                "threshold": _threshold(a, b),
            }
        )
    return pd.DataFrame(rows).set_index("unit")


def _threshold(a: np.ndarray, b: np.ndarray) -> float:
    """Return the lowest threshold that mirror images confirm, as in `unit_reliability`; NaN if there is none."""
    values, others = np.concatenate([a, b]), np.concatenate([b, a])
    for threshold in _THRESHOLDS:
        above = others[values >= threshold]
        if len(above) >= _MIN_FACES and (above >= ACTIVE).mean() >= CONFIRMED:
            return threshold
    return float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _auc(values: np.ndarray, positive: np.ndarray, known: np.ndarray) -> float:
    """Return the area under the ROC curve, with half a point for ties; NaN unless both classes occur."""
    high, low = values[positive & known], np.sort(values[~positive & known])
    if not len(high) or not len(low):
        return float("nan")
    wins = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(wins.mean() / (2 * len(low)))
