"""Whether probabilities can be believed: reliability curve, expected calibration error, Brier score, log-likelihood."""

from dataclasses import dataclass

import numpy as np

BINS = 15
"""Bins of the reliability curve, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""

_SMALLEST = 1e-12


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often answers of a given confidence are right; one entry for each bin."""

    counts: list[int]
    """Faces."""
    confidence: list[float | None]
    """Mean confidence; None in an empty bin."""
    accuracy: list[float | None]
    """Share of right answers; None in an empty bin."""

    @property
    def expected_calibration_error(self) -> float:
        """The mean gap between confidence and accuracy, weighted by faces (Guo et al. 2017, equation 3); in [0, 1]."""
        gaps = [
            count * abs(confidence - accuracy)
            for count, confidence, accuracy in zip(self.counts, self.confidence, self.accuracy, strict=True)
            if confidence is not None and accuracy is not None
        ]
        return sum(gaps) / max(sum(self.counts), 1)


def reliability_curve(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> ReliabilityCurve:
    """Sort answers into bins of equal width by their confidence.

    torchmetrics computes the error but gives no curve, and has a bin of its own for a confidence of exactly 1.

    Args:
        confidences: (N,) probability of each answer, in [0, 1].
        right: (N,) bool, whether the answer is right.
        bins: Number of bins M; bin m holds the confidences in ((m - 1) / M, m / M], the first one 0 too.

    Returns:
        The curve.
    """
    place = np.digitize(confidences, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    counts = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, confidences, minlength=bins)
    accuracy = np.bincount(place, right.astype(float), minlength=bins)

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

    return ReliabilityCurve(counts.tolist(), means(confidence), means(accuracy))


def brier_score(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean squared distance of the probabilities from the truth, summed over the classes (Brier 1950).

    Args:
        probabilities: (N, K).
        targets: (N,) class numbers.

    Returns:
        A number in [0, 2]; 0 is perfect, and 1 - 1 / K is what equal probabilities give.
    """
    truth = np.eye(probabilities.shape[1])[targets]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean negative logarithm of the true class's probability.

    Args:
        probabilities: (N, K); what is below 1e-12 counts as that.
        targets: (N,) class numbers.

    Returns:
        Nats; log K is what equal probabilities give.
    """
    likelihood = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(likelihood, _SMALLEST)).mean())
