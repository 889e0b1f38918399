"""A model's answers for a set of faces, mapped to the classes that are scored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from explllm.core.errors import ConfigError, ManifestError
from explllm.core.expressions import Expression, LabelSet
from explllm.metrics.recognition import NO_LABEL

UnknownLabels = Literal["refuse", "leave_out"]
"""Handling of faces whose true expression is not one of the classes: raise an error, or leave the faces out."""


@dataclass(frozen=True)
class Answers:
    """A model's answers for N faces; each answer names one of K classes or none."""

    labels: tuple[Expression, ...]
    """The K classes that are scored."""
    rows: list[Any]
    """Index labels of the faces in the table."""
    targets: np.ndarray
    """(N,) indices of the true classes."""
    predictions: np.ndarray
    """(N,) indices of the predicted classes; `NO_LABEL` for an answer that names no class."""
    probabilities: np.ndarray
    """(N, K); a row of NaN for a face without probabilities."""
    left_out: dict[str, int]
    """Number of faces left out because their true expression is not one of the classes, by expression."""
    dropped: tuple[Expression, ...]
    """Classes of the model that are not possible answers; their probability is redistributed among the others."""

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        labels: Sequence[Expression] | None = None,
        answer_labels: LabelSet | None = None,
        unknown_labels: UnknownLabels = "refuse",
    ) -> "Answers":
        """Read the answers from a table of predictions.

        The classes of the model and of the data may differ. A class that only the model has, such as Contempt, is a
        possible answer by default, and predicting it counts as wrong. If `answer_labels` are given, only they are
        possible answers, and the probability of the other classes is redistributed proportionally. A class that only
        the data have is an error by default; otherwise, the metrics would describe a subset of the data. With
        ``leave_out``, the faces of this class are counted and left out.

        Args:
            table: One row per face with the columns ``expression``, the true label; ``predicted``, a word for an
                expression, or anything else (free text, an empty cell) for an answer that names no class; and
                ``p_<Expression>``, the probabilities, if known. Rows with a reason in ``unreadable`` are skipped.
            labels: The model's classes; by default those with a probability column.
            answer_labels: The possible answers; by default all classes of the model.
            unknown_labels: What to do with a face whose true expression is not one of the classes: ``refuse`` raises
                an error, ``leave_out`` leaves the face out.

        Returns:
            The answers, in the order of the table.

        Raises:
            ManifestError: If a column is missing, a face has no true expression, or a cell is not a probability.
            ConfigError: If the model's classes are unknown, if they and `answer_labels` are disjoint or, with
                ``refuse``, if a true expression is not one of the classes.
        """
        for column in ("expression", "predicted"):
            if column not in table:
                raise ManifestError(
                    f"the predictions have no column {column}", remedy="Pass the table that `explllm test` writes."
                )
        model = tuple(labels) if labels is not None else _labels_of(table)
        if not model:
            raise ConfigError(
                "the classes of the model are unknown: the predictions have no probability columns",
                remedy="Pass labels.",
            )
        scored = tuple(label for label in model if answer_labels is None or label in answer_labels)
        if not scored:
            raise ConfigError(
                f"the model's labels {', '.join(model)} have nothing in common with "
                f"{answer_labels.name if answer_labels else ''}",
                remedy="Pass the label set of the data.",
            )
        if "unreadable" in table:
            table = table[table["unreadable"].isna()]
        truth = [Expression.parse_or_none(cell) for cell in table["expression"]]
        if None in truth:
            raise ManifestError(
                f"{truth.count(None)} of {len(truth)} faces have no expression", remedy="Label them, or remove them."
            )
        unknown = Counter(str(label) for label in truth if label not in scored)
        if unknown and unknown_labels == "refuse":
            raise ConfigError(
                f"the data contain {', '.join(sorted(unknown))}, which is not a possible answer ({', '.join(scored)})",
                remedy="Remove these faces, or set unknown_labels to leave_out.",
            )
        known = np.array([label in scored for label in truth], bool)
        table, truth = table[known], [label for label in truth if label in scored]
        indices = {label: place for place, label in enumerate(scored)}
        probabilities = _probabilities(table, scored)
        answered = [Expression.parse_or_none(cell) for cell in table["predicted"]]
        predictions = np.array([NO_LABEL if label is None else indices.get(label, NO_LABEL) for label in answered], int)
        dropped = tuple(label for label in model if label not in scored)
        if dropped:
            # Answers that name no class stay as they are.
            chosen = ~np.isnan(probabilities).any(axis=1) & np.array([label is not None for label in answered], bool)
            predictions[chosen] = probabilities[chosen].argmax(axis=1)
        return cls(
            labels=scored,
            rows=list(table.index),
            targets=np.array([indices[label] for label in truth if label is not None], int),
            predictions=predictions,
            probabilities=probabilities,
            left_out=dict(sorted(unknown.items())),
            dropped=dropped,
        )

    @property
    def names(self) -> list[str | None]:
        """Names of the predicted classes; None for an answer that names no class."""
        return [None if index == NO_LABEL else str(self.labels[index]) for index in self.predictions]

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: whether each answer is correct."""
        return self.predictions == self.targets

    @property
    def truth_probability(self) -> np.ndarray:
        """(N,) probability of the true class; NaN for a face without probabilities."""
        return self.probabilities[np.arange(len(self.targets)), self.targets]


def _labels_of(table: pd.DataFrame) -> tuple[Expression, ...]:
    """Return the expressions with a probability column, in the order of the columns."""
    names = [str(name).removeprefix("p_") for name in table.columns if str(name).startswith("p_")]
    return tuple(Expression(name) for name in names if name in set(Expression))


def _probabilities(table: pd.DataFrame, scored: Sequence[Expression]) -> np.ndarray:
    """Return the probabilities of the scored classes, normalized to sum to 1; NaN for a row that lacks one.

    The probabilities in a row of the table may sum to another number, such as 100.

    Raises:
        ManifestError: If a cell is negative, infinite or text.
    """
    columns = [f"p_{label}" for label in scored]
    if not set(columns) <= set(table.columns):
        return np.full((len(table), len(scored)), np.nan)
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    for column in columns:
        cells = table[column]
        wrong = cells[cells.notna() & ~numbers[column].between(0, np.inf, inclusive="left")]
        if len(wrong):
            raise ManifestError(
                f"{wrong.iloc[0]} is not a probability", where=f"column {column}", remedy="Use values from 0 to 1."
            )
    shares = numbers.to_numpy(dtype=float, na_value=np.nan)
    total = shares.sum(axis=1, keepdims=True)
    # Do not divide rows that already sum to 1: rounding could make equal probabilities differ.
    total = np.where(np.isclose(total, 1, rtol=0, atol=1e-6), 1, total)
    # If the probabilities of all scored classes are 0, treat these classes as equally likely.
    return np.where(total == 0, 1 / len(scored), shares / np.where(total == 0, 1, total))
