"""Published results, shown beside those of a run and always marked as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Published:
    """One accuracy from the ExpLLM paper."""

    tested_on: str
    trained_on: str
    accuracy: float
    """In percent."""
    source: str
    """Table in the paper."""


EXP_COT_SCORES: Mapping[str, tuple[float, float, float, float]] = MappingProxyType(
    {"GPT-4o": (2.93, 3.22, 3.25, 0.63), "ExpLLM": (3.53, 3.72, 4.15, 0.76)}
)
"""Key observations, interpretation and conclusion in [0, 5], and the Exp-CoT Score in [0, 1], by the model that wrote
the texts (Table III), judged by GPT-4o on 100 faces of the test sets of RAF-DB and AffectNet."""

PUBLISHED: tuple[Published, ...] = (
    Published("RAF-DB", "RAF-DB", 91.03, "Table I"),
    Published("AffectNet, 7 classes", "AffectNet", 65.93, "Table I"),
    Published("AffectNet, 8 classes", "AffectNet", 62.86, "Table I"),
    Published("ExpW", "RAF-DB", 68.13, "Table II"),
    Published("AffectNet, 7 classes", "RAF-DB", 51.86, "Table II"),
)
"""Accuracies of ExpLLM (Lan et al., "ExpLLM: Towards Chain of Thought for Facial Expression Recognition")."""
