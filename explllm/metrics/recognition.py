"""How well expressions are recognised: accuracy, macro recall, histogram of predictions, negative log-likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric

from explllm.core.expressions import Expression


def confusion_matrix(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Count pairs of true and predicted class.

    Args:
        predictions: (N,) class numbers.
        targets: (N,) class numbers.
        classes: Number of classes K.

    Returns:
        (K, K) int64: rows are the true classes, columns the predicted ones.
    """
    return torch.bincount(targets * classes + predictions, minlength=classes**2).view(classes, classes)


def recall_by_class(confusion: torch.Tensor) -> torch.Tensor:
    """Return the recall of each class, (K,); not a number where a class does not occur."""
    return confusion.diag() / confusion.sum(1)


def recognition_summary(confusion: torch.Tensor, nll: float, labels: Sequence[Expression]) -> dict[str, Any]:
    """Compute all figures from the confusion matrix.

    Accuracy alone hides a collapse to one class, so macro recall and the histogram of predictions stand beside it.

    Args:
        confusion: (K, K), rows are the true classes.
        nll: Mean negative log-likelihood of the true class, in nats.
        labels: The classes.

    Returns:
        ``accuracy``; ``macro_recall`` (mean over the classes that occur); ``recall``, ``predictions``, ``targets`` by
        class; ``nll``; ``count``.
    """
    confusion = confusion.cpu()
    count, recall = int(confusion.sum()), recall_by_class(confusion)
    names = [str(label) for label in labels]
    return {
        "accuracy": float(confusion.diag().sum() / max(count, 1)),
        "macro_recall": float(recall.nanmean()) if count else 0.0,
        "nll": nll,
        "count": count,
        "predictions": dict(zip(names, confusion.sum(0).tolist(), strict=True)),
        "targets": dict(zip(names, confusion.sum(1).tolist(), strict=True)),
        "recall": {name: None if value != value else value for name, value in zip(names, recall.tolist(), strict=True)},
    }


class RecognitionMetrics(Metric):
    """The stateful form of `recognition_summary`; its state adds up over batches and processes."""

    full_state_update = False
    confusion: torch.Tensor
    nll: torch.Tensor

    def __init__(self, labels: Sequence[Expression]) -> None:
        """Set all counts to zero.

        Args:
            labels: The classes, in the order of the probabilities' columns.
        """
        super().__init__()
        self.labels = tuple(labels)
        self.add_state("confusion", torch.zeros(len(labels), len(labels), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: (B, K).
            targets: (B,) class numbers.
        """
        self.confusion += confusion_matrix(probabilities.argmax(1), targets, len(self.labels))
        likelihood = probabilities.double().gather(1, targets.unsqueeze(1)).clamp(min=1e-12)
        self.nll -= likelihood.log().sum()

    def compute(self) -> dict[str, Any]:
        """Return the figures so far."""
        count = max(int(self.confusion.sum()), 1)
        return recognition_summary(self.confusion, float(self.nll) / count, self.labels)
