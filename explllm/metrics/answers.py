"""What a model answered for a set of faces, mapped to the classes that are scored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from explllm.core.errors import ConfigError, ManifestError, UnknownExpressionError
from explllm.core.expressions import Expression, LabelSet
from explllm.metrics.recognition import NO_LABEL

UnknownLabels = Literal["refuse", "leave_out"]
"""What to do with a face whose true expression is none of the classes: refuse the table, or leave the face out."""


@dataclass(frozen=True)
class Answers:
    """The answers for N faces among K classes."""

    labels: tuple[Expression, ...]
    """The classes that are scored."""
    rows: list[Any]
    """The faces' places in the table's index."""
    targets: np.ndarray
    """(N,) numbers of the true classes."""
    predictions: np.ndarray
    """(N,) numbers of the answers; `NO_LABEL` for one that names no class."""
    probabilities: np.ndarray
    """(N, K); rows of nan where a face has none."""
    left_out: dict[str, int]
    """Faces that do not count because their true expression is none of the classes, by expression."""
    dropped: tuple[Expression, ...]
    """Classes of the model that were no possible answer; their probability was shared out among the others."""

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        labels: Sequence[Expression] | None = None,
        answer_labels: LabelSet | None = None,
        unknown_labels: UnknownLabels = "refuse",
    ) -> "Answers":
        """Read the answers from a table of predictions.

        Across data sets the classes may differ. A model that knows Contempt may be tested on data without it: by
        default every class of the model is a possible answer, and Contempt is then simply wrong; with `answer_labels`
        the answer is sought among these alone, and the probability of the others is shared out in proportion. Data may
        hold Contempt where the model does not know it: that is an error by default, as the figures would be of other
        faces than those of the data set; with ``leave_out`` such faces are counted and left out.

        Args:
            table: One row a face: ``expression``, the true one; ``predicted``, any word that names an expression, or
                anything else (or nothing) for an answer that names none, such as free text; ``p_<Expression>``,
                probabilities, where there are any. Rows with a reason in ``unreadable`` do not count.
            labels: The model's classes; by default those that the table has probabilities of.
            answer_labels: The classes to answer among; by default all of the model.
            unknown_labels: What to do with true expressions that are none of the classes.

        Returns:
            The answers, in the table's order.

        Raises:
            ManifestError: If a column is absent, or a face has no true expression.
            ConfigError: If a true expression is none of the classes, or the two sets of labels have none in common.
        """
        for column in ("expression", "predicted"):
            if column not in table:
                raise ManifestError(
                    f"no column {column} in the predictions", remedy="Give the table that `explllm test` writes."
                )
        model = tuple(labels) if labels is not None else _labels_of(table)
        if not model:
            raise ConfigError(
                "predictions without probabilities do not say among which expressions the model chose",
                remedy="Name its labels.",
            )
        scored = tuple(label for label in model if answer_labels is None or label in answer_labels)
        if not scored:
            raise ConfigError(
                f"the model's labels {', '.join(model)} are none of {answer_labels.name if answer_labels else ''}",
                remedy="Name the label set of the data.",
            )
        if "unreadable" in table:
            table = table[table["unreadable"].isna()]
        truth = [_expression(cell) for cell in table["expression"]]
        if None in truth:
            raise ManifestError(
                f"no expression for {truth.count(None)} of {len(truth)} faces", remedy="Label them, or leave them out."
            )
        unknown = Counter(str(label) for label in truth if label not in scored)
        if unknown and unknown_labels == "refuse":
            raise ConfigError(
                f"the data holds {', '.join(sorted(unknown))}, which is no possible answer ({', '.join(scored)})",
                remedy="Take these faces out, or have them left out and counted by unknown_labels=leave_out.",
            )
        kept = np.array([label in scored for label in truth], bool)
        table, truth = table[kept], [label for label in truth if label in scored]
        places = {label: place for place, label in enumerate(scored)}
        probabilities = _probabilities(table, scored)
        answered = [_expression(cell) for cell in table["predicted"]]
        predictions = np.array([NO_LABEL if label is None else places.get(label, NO_LABEL) for label in answered], int)
        dropped = tuple(label for label in model if label not in scored)
        if dropped:
            # An answer that named no class at all stays none.
            known = ~np.isnan(probabilities).any(axis=1) & np.array([label is not None for label in answered], bool)
            predictions[known] = probabilities[known].argmax(axis=1)
        return cls(
            labels=scored,
            rows=list(table.index),
            targets=np.array([places[label] for label in truth if label is not None], int),
            predictions=predictions,
            probabilities=probabilities,
            left_out=dict(sorted(unknown.items())),
            dropped=dropped,
        )

    @property
    def words(self) -> list[str | None]:
        """The answers' names; None for one that names no class."""
        return [None if place == NO_LABEL else str(self.labels[place]) for place in self.predictions]

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: whether each answer is right."""
        return self.predictions == self.targets

    @property
    def truth_probability(self) -> np.ndarray:
        """(N,) probability of each true class; nan where a face has none."""
        return self.probabilities[np.arange(len(self.targets)), self.targets]


def _labels_of(table: pd.DataFrame) -> tuple[Expression, ...]:
    """Return the expressions that a table has probabilities of, in its columns' order."""
    names = [str(name).removeprefix("p_") for name in table.columns if str(name).startswith("p_")]
    return tuple(Expression(name) for name in names if name in set(Expression))


def _expression(cell: Any) -> Expression | None:
    try:
        return Expression.parse(cell)
    except UnknownExpressionError:
        return None


def _probabilities(table: pd.DataFrame, scored: Sequence[Expression]) -> np.ndarray:
    """Return the probabilities of the scored classes, which add up to 1 in each row that has them."""
    columns = [f"p_{label}" for label in scored]
    if not set(columns) <= set(table.columns):
        return np.full((len(table), len(scored)), np.nan)
    shares = table[columns].to_numpy(dtype=float, na_value=np.nan)
    total = shares.sum(axis=1, keepdims=True)
    # What adds up stays as it is to the last bit: equal probabilities of two faces must remain equal.
    total = np.where(np.isclose(total, 1, rtol=0, atol=1e-6), 1, total)
    # Where the classes left have no probability at all, none of them is preferred.
    return np.where(total == 0, 1 / len(scored), shares / np.where(total == 0, 1, total))
