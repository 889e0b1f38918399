"""How well intensities of action units are estimated: MAE, ICC(3,1), CCC and Pearson's correlation by unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.action_units import NAMES

MEASURES: Mapping[str, str] = {"mae": "MAE", "icc": "ICC(3,1)", "ccc": "CCC", "pearson": "Pearson"}
"""The figures of a unit, and how they are written."""

_SUMS = ("count", "x", "y", "xx", "yy", "xy", "absolute")
_WITHOUT_FLOAT64 = ("mps",)
"""Devices that the sums stay away from: differences of large sums need float64, which Apple's GPUs lack."""


@dataclass(frozen=True)
class Agreement:
    """How estimates agree with the truth; each field (U,) float64, and not a number where it is not defined."""

    count: torch.Tensor
    """Faces with a label."""
    mae: torch.Tensor
    """Mean absolute error."""
    icc: torch.Tensor
    """ICC(3,1)."""
    ccc: torch.Tensor
    """Lin's concordance correlation coefficient."""
    pearson: torch.Tensor
    """Pearson's correlation."""
    constant_labels: torch.Tensor
    """bool: all labels are equal, or there are none: no correlation is defined."""
    constant_predictions: torch.Tensor
    """bool: all estimates are equal, though the labels are not: correlations count as 0."""


def icc_3_1(ratings: torch.Tensor) -> torch.Tensor:
    """Return the intraclass correlation ICC(3,1): two-way mixed, consistency, one rater.

    (BMS - EMS) / (BMS + (k - 1) EMS), of the mean squares between targets and of the residual (Shrout and Fleiss,
    "Intraclass Correlations: Uses in Assessing Rater Reliability", Psychological Bulletin 86, 1979).

    Args:
        ratings: (N, k): a row a target, a column a rater.

    Returns:
        A number, float64; not a number where all targets are rated alike by every rater.
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
        targets: (N, U) labels, not a number where a unit is not labeled.

    Returns:
        The figures.
    """
    sums, least, most = _update(predictions, targets)
    return _compute(sums, least, most)


def agreement_summary(agreement: Agreement, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Put the figures of all units together.

    Args:
        agreement: The figures by unit.
        names: The units' names.

    Returns:
        ``mae``, ``icc``, ``ccc``, ``pearson``: means over the units for which they are defined, MAE over all that are
        labeled; None if there is none. ``faces``; ``by_unit``: ``faces`` and the four by unit, None where not
        defined; ``left_out``: the units without a correlation, whose labels are constant or absent;
        ``constant_predictions``: units whose estimates never change though the labels do, which count as 0.
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
                "faces": int(agreement.count[place]),
                **{name: _number(values[place]) for name, values in columns.items()},
            }
            for place, unit in enumerate(names)
        },
    }


class ActionUnitAgreement(Metric):
    """The stateful form of `agreement_summary`; its state adds up over batches and processes.

    The state goes where the module goes, so that any backend can add it up, but stays where it is before a device
    without float64.
    """

    full_state_update = False
    sums: torch.Tensor
    least: torch.Tensor
    most: torch.Tensor

    def __init__(self, names: Sequence[str] = NAMES) -> None:
        """Set all sums to zero.

        Args:
            names: The U units' names.
        """
        super().__init__()
        self.names, units = tuple(names), len(names)
        self.add_state("sums", torch.zeros(len(_SUMS), units, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("least", torch.full((2, units), torch.inf, dtype=torch.float64), dist_reduce_fx="min")
        self.add_state("most", torch.full((2, units), -torch.inf, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch.

        Args:
            predictions: (B, U) estimates.
            targets: (B, U) labels, not a number where a unit is not labeled.
        """
        sums, least, most = _update(predictions.to(self.sums.device), targets.to(self.sums.device))
        self.sums += sums
        self.least, self.most = torch.minimum(self.least, least), torch.maximum(self.most, most)

    def compute(self) -> dict[str, Any]:
        """Return the figures so far."""
        return agreement_summary(_compute(self.sums, self.least, self.most), self.names)

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> "ActionUnitAgreement":
        """Move the state, as `to` of this module and of those around it asks."""
        if fn(torch.zeros(1)).device.type in _WITHOUT_FLOAT64:
            return self
        super()._apply(fn, *args, **kwargs)
        return self


def _update(predictions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return sums (7, U), and least and greatest estimate and label (2, U), of the labeled faces."""
    x, y, known = predictions.double(), targets.double(), ~targets.isnan()
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    terms = (torch.ones_like(x), x, y, x * x, y * y, x * y, (x - y).abs())
    sums = torch.stack([torch.where(known, term, zero).sum(0) for term in terms])
    pair = torch.stack([x, y])
    # One more face that is beyond every other, so that no faces at all are no special case.
    edge = pair.new_full((2, 1, pair.shape[2]), torch.inf)
    least = torch.cat([torch.where(known, pair, torch.inf), edge], 1).amin(1)
    most = torch.cat([torch.where(known, pair, -torch.inf), -edge], 1).amax(1)
    return sums, least, most


def _compute(sums: torch.Tensor, least: torch.Tensor, most: torch.Tensor) -> Agreement:
    count, x, y, xx, yy, xy, absolute = sums
    mean_x, mean_y = x / count, y / count
    variance_x = (xx / count - mean_x.square()).clamp(min=0)
    variance_y = (yy / count - mean_y.square()).clamp(min=0)
    covariance = xy / count - mean_x * mean_y
    # From the extremes: the variance of equal numbers is a rounding error, and not always 0.
    unchanging, constant = least[0] >= most[0], least[1] >= most[1]
    collapsed = unchanging & ~constant
    undefined = torch.full_like(count, torch.nan)

    def measure(values: torch.Tensor) -> torch.Tensor:
        return torch.where(constant, undefined, torch.where(collapsed, torch.zeros_like(values), values))

    return Agreement(
        count=count,
        mae=absolute / count,
        # With two raters, (BMS - EMS) / (BMS + EMS): neither counts a constant difference between the two as an error.
        icc=measure(2 * covariance / (variance_x + variance_y)),
        # Lin, "A Concordance Correlation Coefficient to Evaluate Reproducibility", Biometrics 45, 1989.
        ccc=measure(2 * covariance / (variance_x + variance_y + (mean_x - mean_y).square())),
        pearson=measure(covariance / (variance_x * variance_y).sqrt()),
        constant_labels=constant,
        constant_predictions=collapsed,
    )


def _number(value: torch.Tensor) -> float | None:
    return None if value.isnan() else float(value)
