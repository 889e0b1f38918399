"""Published figures to hold a run's own against; they are never a run's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure of the ExpLLM paper."""

    tested_on: str
    trained_on: str
    accuracy: float
    """In percent."""
    source: str
    """Where the paper says it."""


PUBLISHED: tuple[Published, ...] = (
    Published("RAF-DB", "RAF-DB", 91.03, "Table I"),
    Published("AffectNet, 7 classes", "AffectNet", 65.93, "Table I"),
    Published("AffectNet, 8 classes", "AffectNet", 62.86, "Table I"),
    Published("ExpW", "RAF-DB", 68.13, "Table II"),
    Published("AffectNet, 7 classes", "RAF-DB", 51.86, "Table II"),
)
"""Accuracies of ExpLLM (Lan et al., "ExpLLM: Towards Chain of Thought for Facial Expression Recognition")."""
