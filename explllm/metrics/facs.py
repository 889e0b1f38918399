"""How well FACS units are found by a model of FEAFA's units: F1 by unit, as DISFA and BP4D are evaluated."""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.facs import FacsUnit, facs_set, unmapped_units

ACTIVE_FROM = 0.25
"""The intensity from which a FEAFA unit counts as an active FACS unit.

DISFA counts a unit as active from the second of FACS's five grades on, which begins here in
`explllm.core.action_units.INTENSITY_WORDS`. FEAFA's scale is not FACS's: the number is this project's own.
"""


def facs_intensities(intensities: torch.Tensor, units: Sequence[FacsUnit]) -> torch.Tensor:
    """Turn FEAFA's intensities into those of FACS units.

    A FACS unit is active if it is on either side: its intensity is the greatest of its FEAFA units.

    Args:
        intensities: (N, 24), in FEAFA's order.
        units: K FACS units.

    Returns:
        (N, K); not a number for a unit that no FEAFA unit makes.
    """
    missing = torch.full_like(intensities[:, 0], torch.nan)
    columns = [intensities[:, list(unit.indices)].amax(1) if unit.feafa else missing for unit in units]
    return torch.stack(columns, 1)


def facs_counts(active: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Count right and wrong answers by unit.

    Args:
        active: (N, K) bool, what was found.
        truth: (N, K) bool or 0 and 1.

    Returns:
        (3, K) int64: found rightly, found wrongly, not found.
    """
    truth = truth.bool()
    return torch.stack([(active & truth).sum(0), (active & ~truth).sum(0), (~active & truth).sum(0)])


def facs_f1(counts: torch.Tensor) -> torch.Tensor:
    """Return the F1 of each unit, (K,) float64; not a number where a unit neither occurs nor is found.

    Args:
        counts: (3, K), as `facs_counts` gives them.
    """
    right, wrong, lost = counts.double()
    return 2 * right / (2 * right + wrong + lost)


def facs_summary(counts: torch.Tensor, faces: int, units: Sequence[FacsUnit]) -> dict[str, Any]:
    """Put the figures of all units together.

    Args:
        counts: (3, K), as `facs_counts` gives them.
        faces: Number of faces.
        units: The K units.

    Returns:
        ``f1``: by unit (``AU1``, ...), None where it is not defined or the unit is missing; ``mean_f1``: the mean over
        the units that have one, None if there is none; ``mean_over``: these units; ``missing``: units that no FEAFA
        unit makes, which count nowhere; ``active``: faces that show a unit; ``faces``.
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
    """The stateful form of `facs_summary`; its state adds up over batches and processes."""

    full_state_update = False
    counts: torch.Tensor
    faces: torch.Tensor

    def __init__(self, name: str, active_from: float = ACTIVE_FROM) -> None:
        """Set all counts to zero.

        Args:
            name: One of `explllm.core.facs.FACS_SETS`.
            active_from: The intensity from which a unit counts as active.

        Raises:
            ConfigError: If there is no such set.
        """
        super().__init__()
        self.units, self.active_from = facs_set(name), active_from
        self.add_state("counts", torch.zeros(3, len(self.units), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("faces", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, intensities: torch.Tensor, truth: torch.Tensor) -> None:
        """Count a batch.

        Args:
            intensities: (B, 24), in FEAFA's order.
            truth: (B, K), 0 or 1.
        """
        # A unit without a counterpart is nowhere active; `facs_summary` leaves it out.
        self.counts += facs_counts(facs_intensities(intensities, self.units) >= self.active_from, truth)
        self.faces += len(intensities)

    def compute(self) -> dict[str, Any]:
        """Return the figures so far."""
        # F1 is computed in float64, which Apple's GPUs lack.
        return facs_summary(self.counts.cpu(), int(self.faces), self.units)
