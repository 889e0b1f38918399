"""The reliability of measured action units, from the table that ``explllm reliability`` writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import pandas as pd

from explllm.core.action_units import NAMES, parse_unit_names
from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.core.manifest import Manifest


@dataclass(frozen=True)
class UnitReliability:
    """Reliability of each action unit of an estimator."""

    weights: tuple[float, ...]
    """24 weights in [0, 1], in FEAFA order; 0 for a unit that is not trusted."""
    thresholds: tuple[float, ...]
    """24 thresholds, in FEAFA order: each unit counts as active at or above its threshold."""

    @classmethod
    def read(cls, path: str | PathLike[str]) -> UnitReliability:
        """Read a table.

        Args:
            path: A CSV file with the columns ``unit``, ``weight`` and ``threshold``. Units that are not listed, and
                units with an empty weight or threshold, are not trusted.

        Returns:
            The weights and thresholds.

        Raises:
            MissingPathError: If the file does not exist.
            ManifestError: If the file is not CSV, a column is missing, a unit is unknown or listed twice, or a value is
                not in [0, 1].
        """
        path = Path(path)
        if not path.is_file():
            raise MissingPathError(
                "the table does not exist", where=path, remedy="Create it with `explllm reliability -o`."
            )
        remedy = "Use a table that `explllm reliability -o FILE` wrote."
        weights, thresholds = [0.0] * len(NAMES), [0.0] * len(NAMES)
        units: set[int] = set()
        try:
            with path.open(newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines)
                columns = reader.fieldnames or ()
                rows = [(reader.line_num, row) for row in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ManifestError(f"not a CSV table in UTF-8 ({error})", where=path, remedy=remedy) from error
        if lacking := [name for name in ("unit", "weight", "threshold") if name not in columns]:
            raise ManifestError(f"no column {', '.join(lacking)}", where=path, remedy=remedy)
        for line, row in rows:
            where = f"{path}, line {line}"
            try:
                [unit] = parse_unit_names(row["unit"] or "")
                weight, threshold = (float(row[name] or "nan") for name in ("weight", "threshold"))
            except (InputError, ValueError) as error:
                raise ManifestError(f"the row is invalid ({error})", where=where, remedy=remedy) from None
            if unit in units or any(value < 0 or value > 1 for value in (weight, threshold)):
                found = "is listed twice" if unit in units else "has a value outside [0, 1]"
                raise ManifestError(f"{NAMES[unit]} {found}", where=where, remedy=remedy)
            units.add(unit)
            if not math.isnan(weight) and not math.isnan(threshold):
                weights[unit], thresholds[unit] = weight, threshold
        return cls(tuple(weights), tuple(thresholds))

    @property
    def untrusted(self) -> list[str]:
        """The names of the units that are not trusted, in FEAFA order."""
        return [name for name, weight in zip(NAMES, self.weights, strict=True) if not weight]

    def calibrate(self, units: Sequence[float | None]) -> list[float | None]:
        """Return intensities in which untrusted units are None and values below a unit's threshold are 0.

        Args:
            units: 24 intensities in FEAFA order; None for units that were not measured.

        Returns:
            24 intensities.
        """
        return [
            None if value is None or not weight else value if value >= threshold else 0.0
            for value, weight, threshold in zip(units, self.weights, self.thresholds, strict=True)
        ]

    def calibrate_manifest(self, manifest: Manifest) -> Manifest:
        """Return a manifest with calibrated action units; untrusted units are listed as unmeasured."""
        rows = [None if units is None else self.calibrate(units) for units in manifest.intensities()]
        frame = manifest.frame.copy()
        frame["action_units"] = pd.Series(
            [None if units is None else [value or 0.0 for value in units] for units in rows], frame.index, dtype=object
        )
        missing = [
            ", ".join(NAMES[i] for i, value in enumerate(units or ()) if value is None) or None for units in rows
        ]
        frame["action_units_missing"] = pd.Series(missing, frame.index, dtype=object)
        return Manifest(frame, manifest.root, manifest.path)
