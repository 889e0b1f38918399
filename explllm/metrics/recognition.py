"""Recognition metrics: accuracy, recall, precision, F1, histogram of predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from explllm.core.expressions import Expression

NO_LABEL = -1
"""Index of an answer that names no class."""


def confusion_matrix(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Count the pairs of true and predicted classes.

    Args:
        predictions: (N,) class indices; `NO_LABEL` for an answer that names no class.
        targets: (N,) class indices.
        classes: Number of classes K.

    Returns:
        (K, K + 1) int64: rows are the true classes, columns the predicted classes; the last column counts answers that
        name no class.

    Examples:
        >>> confusion_matrix(torch.tensor([0, 1, NO_LABEL]), torch.tensor([0, 0, 1]), 2)
        tensor([[1, 1, 0],
                [0, 0, 1]])
    """
    answers = torch.where(predictions == NO_LABEL, classes, predictions)
    return multiclass_confusion_matrix(answers, targets, classes + 1, validate_args=False)[:classes].long()


def recall_by_class(confusion: torch.Tensor) -> torch.Tensor:
    """Return the recall of each class, (K,) float64; NaN for a class that does not occur."""
    return confusion.diag().double() / confusion.sum(1)


def precision_by_class(confusion: torch.Tensor) -> torch.Tensor:
    """Return the precision of each class, (K,) float64; NaN for a class that is never predicted."""
    return confusion.diag().double() / confusion[:, : len(confusion)].sum(0)


def f1_by_class(confusion: torch.Tensor) -> torch.Tensor:
    """Return the F1 of each class, (K,) float64; NaN for a class that never occurs and is never predicted."""
    return 2 * confusion.diag().double() / (confusion.sum(1) + confusion[:, : len(confusion)].sum(0))


def recognition_summary(confusion: torch.Tensor, nll: float | None, labels: Sequence[Expression]) -> dict[str, Any]:
    """Compute all metrics that follow from the confusion matrix.

    Accuracy alone hides a collapse to one class, so the summary includes macro recall and the histogram of predictions.

    Args:
        confusion: (K, K + 1), from `confusion_matrix`.
        nll: Mean negative log-likelihood of the true class, in nats; None if unknown.
        labels: The classes.

    Returns:
        ``accuracy``; ``macro_recall`` and ``macro_f1`` (means over the classes that occur); ``nll``; ``count``;
        ``no_label``, the number of answers that name no class, which count as wrong; ``predictions``, ``targets``,
        ``recall``, ``precision`` and ``f1`` by class, None if undefined.

    Examples:
        >>> metrics = recognition_summary(torch.tensor([[3, 1, 0], [0, 2, 0]]), None, ["Fear", "Anger"])
        >>> round(metrics["accuracy"], 3), metrics["recall"]
        (0.833, {'Fear': 0.75, 'Anger': 1.0})
    """
    confusion = confusion.cpu()
    count, occurs = int(confusion.sum()), confusion.sum(1) > 0
    recall, f1 = recall_by_class(confusion), f1_by_class(confusion)
    names = [str(label) for label in labels]
    return {
        "accuracy": int(confusion.diag().sum()) / max(count, 1),
        "macro_recall": float(recall[occurs].mean()) if count else 0.0,
        "macro_f1": float(f1[occurs].mean()) if count else 0.0,
        "nll": nll,
        "count": count,
        "no_label": int(confusion[:, -1].sum()),
        "predictions": dict(zip(names, confusion[:, :-1].sum(0).tolist(), strict=True)),
        "targets": dict(zip(names, confusion.sum(1).tolist(), strict=True)),
        "recall": _by_name(names, recall),
        "precision": _by_name(names, precision_by_class(confusion)),
        "f1": _by_name(names, f1),
    }


class RecognitionMetrics(Metric):
    """The stateful form of `recognition_summary`, accumulated over batches and ranks."""

    full_state_update = False
    confusion: torch.Tensor
    nll: torch.Tensor

    def __init__(self, labels: Sequence[Expression]) -> None:
        """Initialize the counts to zero; `labels` are the classes in the order of the probability columns."""
        super().__init__()
        self.labels = tuple(labels)
        self.add_state("confusion", torch.zeros(len(labels), len(labels) + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch: probabilities (B, K) and class indices of the targets (B,)."""
        self.confusion += confusion_matrix(probabilities.argmax(1), targets, len(self.labels))
        likelihood = probabilities.double().gather(1, targets.unsqueeze(1)).clamp(min=1e-12)
        self.nll -= likelihood.log().sum()

    def compute(self) -> dict[str, Any]:
        """Return the metrics of all batches so far."""
        count = max(int(self.confusion.sum()), 1)
        return recognition_summary(self.confusion, float(self.nll) / count, self.labels)


def _by_name(names: Sequence[str], values: torch.Tensor) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in zip(names, values.tolist(), strict=True)}
