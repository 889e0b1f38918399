"""Published counts of each data set, for checking a copy."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from explllm.core.expressions import LABEL_SETS, Expression


@dataclass(frozen=True)
class Published:
    """Published counts of a data set."""

    source: str
    """The publication."""
    counts: Mapping[str, int]
    """The counts, under the keys of `count_rows`."""

    def differences(self, counts: Mapping[str, int]) -> list[str]:
        """Return one line that names all counts that differ, or an empty list if none do; a missing key counts as 0."""
        parts = [
            f"{key} {counts.get(key, 0):,} instead of {count:,}"
            for key, count in self.counts.items()
            if counts.get(key, 0) != count
        ]
        return [f"differs from the published counts ({self.source}): {', '.join(parts)}"] if parts else []

    def without(self, expression: Expression) -> "Published":
        """Return the counts without one class."""
        counts = {key: count for key, count in self.counts.items() if not key.endswith(f" {expression}")}
        for key in counts:
            counts[key] -= self.counts.get(f"{key} {expression}", 0)
        return Published(self.source, counts)


def count_rows(columns: Mapping[str, Iterable[Any]]) -> dict[str, int]:
    """Count the rows of a table.

    Returns:
        Counts by key: ``rows`` for all rows, the split's name for each split, split and class for each class of a split
        (``train Fear``), and ``people`` for the number of people.
    """
    counts: Counter[str] = Counter()
    splits = list(columns.get("split", ()))
    counts["rows"] = len(splits)
    counts.update(splits)
    if "expression" in columns:
        counts.update(f"{split} {label}" for split, label in zip(splits, columns["expression"], strict=True))
    counts["people"] = len(set(columns.get("identity", ())))
    return dict(counts)


def _by_class(split: str, label_set: str, counts: Iterable[int]) -> dict[str, int]:
    classes = {f"{split} {label}": count for label, count in zip(LABEL_SETS[label_set], counts, strict=True)}
    return {split: sum(classes.values())} | classes


RAFDB = Published(
    "RAF-DB, Li et al., CVPR 2017",
    _by_class("train", "rafdb", (1290, 281, 717, 4772, 1982, 705, 2524))
    | _by_class("test", "rafdb", (329, 74, 160, 1185, 478, 162, 680)),
)
AFFECTNET = Published(
    "AffectNet, Mollahosseini et al., 2017",
    _by_class("train", "affectnet8", (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750))
    | _by_class("test", "affectnet8", (500,) * 8),
)
"""The manually annotated images. The ExpLLM paper (Section IV-A) reports 287,568 for training; the lists released by
its authors, and the sum of the classes, give 287,651."""
AFFECTNET_KAGGLE = Published(
    "ExpLLM's subset from Kaggle",
    _by_class("train", "affectnet8", (5000, 5000, 5000, 5000, 5000, 3803, 5000, 3750))
    | _by_class("test", "affectnet8", (500,) * 8),
)
"""Totals: ExpLLM paper, Section IV-A. Classes: the lists that its authors released."""
EXPW = Published("ExpW, Zhang et al., ICCV 2015", {"faces": 91793})
_FER_VAL = (467, 56, 496, 895, 653, 415, 607)
_FER_TEST = (491, 55, 528, 879, 594, 416, 626)
_FER_TRAIN = _by_class("train", "fer2013", (3995, 436, 4097, 7215, 4830, 3171, 4965))
_FER_SOURCE = "FER2013, Goodfellow et al., ICONIP 2013"
FER2013 = Published(
    _FER_SOURCE, _FER_TRAIN | _by_class("val", "fer2013", _FER_VAL) | _by_class("test", "fer2013", _FER_TEST)
)
FER2013_FOLDERS = Published(
    f"{_FER_SOURCE}; the folders combine its public and private test sets",
    _FER_TRAIN | _by_class("test", "fer2013", [a + b for a, b in zip(_FER_VAL, _FER_TEST, strict=True)]),
)
FERPLUS = Published("FER+, Barsoum et al., ICMI 2016", {"faces": 35887})
CC3M_LLAVA = Published("LLaVA-CC3M-Pretrain-595K, Liu et al., NeurIPS 2023", {"rows": 595375})
LLAVA_PRETRAIN = Published("LLaVA-Pretrain (LAION/CC/SBU), Liu et al., CVPR 2024", {"rows": 558128})
FEAFA = Published("FEAFA, Yan et al., ICMEW 2019", {"rows": 99356})
FEAFA_PLUS = Published("FEAFA+, Gan et al., ICDIP 2022", {"rows": 230184})
DISFA = Published("DISFA, Mavadati et al., 2013", {"people": 27})
BP4D = Published("BP4D, Zhang et al., 2014", {"people": 41})
