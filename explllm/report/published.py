"""Published results, shown next to a run's own results and always marked as published."""

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
"""Scores that GPT-4o as the judge gave to texts about 100 faces from the test sets of RAF-DB and AffectNet (Table III).
Keys are the models that wrote the texts. Values are the scores of key observations, interpretation and conclusion in
[0, 5], and the Exp-CoT Score in [0, 1]."""

PUBLISHED: tuple[Published, ...] = (
    Published("RAF-DB", "RAF-DB", 91.03, "Table I"),
    Published("AffectNet, 7 classes", "AffectNet", 65.93, "Table I"),
    Published("AffectNet, 8 classes", "AffectNet", 62.86, "Table I"),
    Published("ExpW", "RAF-DB", 68.13, "Table II"),
    Published("AffectNet, 7 classes", "RAF-DB", 51.86, "Table II"),
)
"""Accuracies of ExpLLM (Lan et al., "ExpLLM: Towards Chain of Thought for Facial Expression Recognition")."""


@dataclass(frozen=True)
class PublishedModel:
    """One published result of a model on a data set of FEABench."""

    model: str
    setting: str
    """``trained`` or ``zero-shot``."""
    tested_on: str
    metric: str
    """``accuracy``, or ``mean F1`` of action units."""
    value: float
    """In percent."""


BENCH_PUBLISHED: tuple[PublishedModel, ...] = tuple(
    PublishedModel(
        model, setting, data, "accuracy" if data in ("RAF-DB", "AffectNet", "AffectNet-8") else "mean F1", value
    )
    for model, setting, data, value in (
        ("EmoLA", "trained", "RAF-DB", 92.05),
        ("EmoLA", "trained", "DISFA", 65.1),
        ("EmoLA", "trained", "BP4D", 64.2),
        ("Facial-R1", "trained", "RAF-DB", 92.1),
        ("Facial-R1", "trained", "AffectNet-8", 65.2),
        ("Facial-R1", "trained", "DISFA", 73.1),
        ("Facial-R1", "trained", "BP4D", 67.4),
        ("Face-LLaVA", "trained", "RAF-DB", 92.1),
        ("Face-LLaVA", "trained", "DISFA", 72.9),
        ("Face-LLaVA", "trained", "BP4D", 65.8),
        ("FMAE", "trained", "RAF-DB", 93.4),
        ("Norface", "trained", "AffectNet", 68.6),
        ("Norface", "trained", "BP4D", 69.3),
        ("Qwen2.5-VL", "zero-shot", "RAF-DB", 34.3),
        ("Qwen2.5-VL", "zero-shot", "DISFA", 22.1),
        ("GPT-4o", "zero-shot", "RAF-DB", 62.7),
        ("GPT-4o", "zero-shot", "DISFA", 56.5),
    )
)
"""Results of other models, as their authors published them."""
