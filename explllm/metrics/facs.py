"""F1 of FACS units that are detected from FEAFA intensities, for data sets such as DISFA and BP4D."""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.facs import FacsUnit, facs_set, unmapped_units

ACTIVE_FROM = 0.25
"""Minimum intensity at which a FEAFA unit counts as an active FACS unit.

DISFA counts a unit as active from the second of FACS's five grades, which starts at this value in
`explllm.core.action_units.INTENSITY_WORDS`. FEAFA's scale differs from FACS's, so the threshold is this project's own.
"""


def facs_intensities(intensities: torch.Tensor, units: Sequence[FacsUnit]) -> torch.Tensor:
    """Convert FEAFA intensities to FACS units.

    A FACS unit is active if it is active on either side: its intensity is the maximum over its FEAFA units.

    Args:
        intensities: (N, 24), in FEAFA's order.
        units: K FACS units.

    Returns:
        (N, K); NaN for a FACS unit without a FEAFA counterpart.
    """
    missing = torch.full_like(intensities[:, 0], torch.nan)
    columns = [intensities[:, list(unit.indices)].amax(1) if unit.feafa else missing for unit in units]
    return torch.stack(columns, 1)


def facs_counts(active: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Count true positives, false positives and false negatives by unit.

    Args:
        active: (N, K) bool, the detections.
        truth: (N, K) bool, or 0 and 1.

    Returns:
        (3, K) int64: true positives, false positives, false negatives.
    """
    truth = truth.bool()
    return torch.stack([(active & truth).sum(0), (active & ~truth).sum(0), (~active & truth).sum(0)])


def facs_f1(counts: torch.Tensor) -> torch.Tensor:
    """Return F1 by unit from `facs_counts`, (K,) float64; NaN for a unit that never occurs and is never detected."""
    true_positives, false_positives, false_negatives = counts.double()
    return 2 * true_positives / (2 * true_positives + false_positives + false_negatives)


def facs_summary(counts: torch.Tensor, faces: int, units: Sequence[FacsUnit]) -> dict[str, Any]:
    """Summarize the F1 of all units.

    Args:
        counts: (3, K), from `facs_counts`.
        faces: Number of faces.
        units: The K units.

    Returns:
        ``f1`` by unit (``AU1``, ...), None if undefined or if the unit is missing; ``mean_f1``: the mean over the units
        that have an F1, None if no unit has one; ``mean_over``: these units; ``missing``: units without a FEAFA
        counterpart, which are left out of the mean; ``active``: number of faces that show each unit; ``faces``.
    """
    absent = unmapped_units(units)
    names = [f"AU{unit.number}" for unit in units]
    scores = {
        name: None if unit in absent or score != score else score
        for name, unit, score in zip(names, units, facs_f1(counts).tolist(), strict=True)
    }
    counted = {name: score for name, score in scores.items() if score is not None}
    return {
        "f1": scores,
        "mean_f1": sum(counted.values()) / len(counted) if counted else None,
        "mean_over": list(counted),
        "missing": [f"AU{unit.number}" for unit in absent],
        "active": dict(zip(names, (counts[0] + counts[2]).tolist(), strict=True)),
        "faces": faces,
    }


class FacsF1(Metric):
    """The stateful form of `facs_summary`, accumulated over batches and ranks."""

    full_state_update = False
    counts: torch.Tensor
    faces: torch.Tensor

    def __init__(self, name: str, active_from: float = ACTIVE_FROM) -> None:
        """Initialize the counts to zero.

        Args:
            name: One of `explllm.core.facs.FACS_SETS`.
            active_from: Minimum intensity at which a unit counts as active.

        Raises:
            ConfigError: If the set is unknown.
        """
        super().__init__()
        self.units, self.active_from = facs_set(name), active_from
        self.add_state("counts", torch.zeros(3, len(self.units), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("faces", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, intensities: torch.Tensor, truth: torch.Tensor) -> None:
        """Add a batch: intensities (B, 24) in FEAFA's order, and truth (B, K), 0 or 1."""
        # A unit without a FEAFA counterpart is NaN and never active; `facs_summary` leaves it out.
        self.counts += facs_counts(facs_intensities(intensities, self.units) >= self.active_from, truth)
        self.faces += len(intensities)

    def compute(self) -> dict[str, Any]:
        """Return the metrics of all batches so far."""
        # F1 is computed in float64, which Apple's GPUs lack.
        return facs_summary(self.counts.cpu(), int(self.faces), self.units)
