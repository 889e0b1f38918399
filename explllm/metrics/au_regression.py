"""Metrics of estimated action unit intensities: MAE, ICC(3,1), CCC and Pearson's correlation by unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.action_units import NAMES

MEASURES: Mapping[str, str] = {"mae": "MAE", "icc": "ICC(3,1)", "ccc": "CCC", "pearson": "Pearson"}
"""The metrics of a unit and their display names."""

_SUMS = ("count", "x", "y", "xx", "yy", "xy", "absolute")
_WITHOUT_FLOAT64 = ("mps",)
"""Devices to which the state is never moved, because they lack float64, which differences of large sums need."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of estimates with labels. Each metric is (U,) float64, NaN for a unit where it is undefined."""

    count: torch.Tensor
    """Number of faces with a label."""
    mae: torch.Tensor
    """Mean absolute error."""
    icc: torch.Tensor
    """ICC(3,1)."""
    ccc: torch.Tensor
    """Lin's concordance correlation coefficient."""
    pearson: torch.Tensor
    """Pearson's correlation."""
    constant_labels: torch.Tensor
    """(U,) bool: all labels are equal or missing, so no correlation is defined."""
    constant_predictions: torch.Tensor
    """(U,) bool: all estimates are equal but the labels are not, so correlations count as 0."""


def icc_3_1(ratings: torch.Tensor) -> torch.Tensor:
    """Return the intraclass correlation ICC(3,1): two-way mixed, consistency, one rater.

    The value is (BMS - EMS) / (BMS + (k - 1) EMS), where BMS is the mean square between targets and EMS the residual
    mean square (Shrout and Fleiss, "Intraclass Correlations: Uses in Assessing Rater Reliability", Psychological
    Bulletin 86, 1979).

    Args:
        ratings: (N, k): one row per target, one column per rater.

    Returns:
        Scalar float64; NaN if each rater gives all targets the same rating.
    """
    ratings = ratings.double()
    targets, raters = ratings.shape
    grand, rows, columns = ratings.mean(), ratings.mean(1, keepdim=True), ratings.mean(0, keepdim=True)
    between = raters * (rows - grand).square().sum() / (targets - 1)
    residual = (ratings - rows - columns + grand).square().sum() / ((targets - 1) * (raters - 1))
    return (between - residual) / (between + (raters - 1) * residual)


def action_unit_agreement(predictions: torch.Tensor, targets: torch.Tensor) -> Agreement:
    """Compare estimates with labels, unit by unit.

    Args:
        predictions: (N, U) estimates.
        targets: (N, U) labels, NaN for a unit that is not labeled.
    """
    sums, minimum, maximum = _update(predictions, targets)
    return _compute(sums, minimum, maximum)


def agreement_summary(agreement: Agreement, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Summarize the agreement of all units.

    Returns:
        ``mae`` (mean over the labeled units), ``icc``, ``ccc`` and ``pearson`` (means over the units for which they are
        defined); None if no unit qualifies. ``faces``: number of labeled faces of the unit with the most labels.
        ``by_unit``: ``faces`` and the four metrics by unit, None if undefined. ``left_out``: units without a
        correlation, because their labels are constant or missing. ``constant_predictions``: units whose estimates are
        constant although the labels vary; their correlations count as 0.
    """
    columns = {name: getattr(agreement, name) for name in MEASURES}
    labeled, varies = agreement.count > 0, ~agreement.constant_labels

    def chosen(flags: torch.Tensor) -> list[str]:
        return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]

    means = {name: values[labeled if name == "mae" else varies] for name, values in columns.items()}
    return {
        **{name: _number(values.mean()) if len(values) else None for name, values in means.items()},
        "faces": int(agreement.count.max()),
        "left_out": chosen(agreement.constant_labels),
        "constant_predictions": chosen(agreement.constant_predictions),
        "by_unit": {
            unit: {
                "faces": int(agreement.count[index]),
                **{name: _number(values[index]) for name, values in columns.items()},
            }
            for index, unit in enumerate(names)
        },
    }


class ActionUnitAgreement(Metric):
    """The stateful form of `agreement_summary`, accumulated over batches and ranks.

    The state is moved with the module, as distributed backends require, but never to devices without float64.
    """

    full_state_update = False
    sums: torch.Tensor
    minimum: torch.Tensor
    maximum: torch.Tensor

    def __init__(self, names: Sequence[str] = NAMES) -> None:
        """Initialize the sums and ranges of the U units."""
        super().__init__()
        self.names, units = tuple(names), len(names)
        self.add_state("sums", torch.zeros(len(_SUMS), units, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("minimum", torch.full((2, units), torch.inf, dtype=torch.float64), dist_reduce_fx="min")
        self.add_state("maximum", torch.full((2, units), -torch.inf, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch.

        Args:
            predictions: (B, U) estimates.
            targets: (B, U) labels, NaN for a unit that is not labeled.
        """
        sums, minimum, maximum = _update(predictions.to(self.sums.device), targets.to(self.sums.device))
        self.sums += sums
        self.minimum, self.maximum = torch.minimum(self.minimum, minimum), torch.maximum(self.maximum, maximum)

    def compute(self) -> dict[str, Any]:
        """Return the metrics of all batches so far."""
        return agreement_summary(_compute(self.sums, self.minimum, self.maximum), self.names)

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> "ActionUnitAgreement":
        """Move the state when this module or a parent is moved, except to devices without float64."""
        if fn(torch.zeros(1)).device.type in _WITHOUT_FLOAT64:
            return self
        super()._apply(fn, *args, **kwargs)
        return self


def _update(predictions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return sums (7, U), minima (2, U) and maxima (2, U) of estimates and labels over the labeled faces."""
    x, y, known = predictions.double(), targets.double(), ~targets.isnan()
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    terms = (torch.ones_like(x), x, y, x * x, y * y, x * y, (x - y).abs())
    sums = torch.stack([torch.where(known, term, zero).sum(0) for term in terms])
    pair = torch.stack([x, y])
    # Add a row of infinities, because amin and amax are undefined for zero faces.
    edge = pair.new_full((2, 1, pair.shape[2]), torch.inf)
    minimum = torch.cat([torch.where(known, pair, torch.inf), edge], 1).amin(1)
    maximum = torch.cat([torch.where(known, pair, -torch.inf), -edge], 1).amax(1)
    return sums, minimum, maximum


def _compute(sums: torch.Tensor, minimum: torch.Tensor, maximum: torch.Tensor) -> Agreement:
    count, x, y, xx, yy, xy, absolute = sums
    mean_x, mean_y = x / count, y / count
    variance_x = (xx / count - mean_x.square()).clamp(min=0)
    variance_y = (yy / count - mean_y.square()).clamp(min=0)
    covariance = xy / count - mean_x * mean_y
    # Compare the extremes: the variance of equal numbers is not exactly 0 in floating point.
    unchanging, constant = minimum[0] >= maximum[0], minimum[1] >= maximum[1]
    collapsed = unchanging & ~constant
    undefined = torch.full_like(count, torch.nan)

    def measure(values: torch.Tensor) -> torch.Tensor:
        return torch.where(constant, undefined, torch.where(collapsed, torch.zeros_like(values), values))

    return Agreement(
        count=count,
        mae=absolute / count,
        # With two raters, ICC is (BMS - EMS) / (BMS + EMS): a constant difference between the raters is not an error.
        icc=measure(2 * covariance / (variance_x + variance_y)),
        # Lin, "A Concordance Correlation Coefficient to Evaluate Reproducibility", Biometrics 45, 1989.
        ccc=measure(2 * covariance / (variance_x + variance_y + (mean_x - mean_y).square())),
        pearson=measure(covariance / (variance_x * variance_y).sqrt()),
        constant_labels=constant,
        constant_predictions=collapsed,
    )


def _number(value: torch.Tensor) -> float | None:
    return None if value.isnan() else float(value)
