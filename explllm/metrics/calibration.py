"""Calibration of probabilities: reliability curve, expected calibration error, Brier score, log-likelihood."""

from dataclasses import dataclass

import numpy as np

BINS = 15
"""Number of bins of the reliability curve, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""

_EPSILON = 1e-12


@dataclass(frozen=True)
class ReliabilityCurve:
    """Accuracy by confidence, one entry per bin."""

    counts: list[int]
    """Number of faces."""
    confidence: list[float | None]
    """Mean confidence; None if the bin is empty."""
    accuracy: list[float | None]
    """Share of correct answers; None if the bin is empty."""

    @property
    def expected_calibration_error(self) -> float:
        """The mean gap between confidence and accuracy, weighted by bin size (Guo et al. 2017, Eq. 3); in [0, 1]."""
        gaps = [
            count * abs(confidence - accuracy)
            for count, confidence, accuracy in zip(self.counts, self.confidence, self.accuracy, strict=True)
            if confidence is not None and accuracy is not None
        ]
        return sum(gaps) / max(sum(self.counts), 1)


def reliability_curve(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> ReliabilityCurve:
    """Group answers by confidence into bins of equal width.

    torchmetrics computes the error but not the curve, and it has an extra bin for a confidence of exactly 1.

    Args:
        confidences: (N,) probability of each answer, in [0, 1].
        correct: (N,) bool, whether the answer is correct.
        bins: Number of bins M; bin m holds the confidences in ((m - 1) / M, m / M]; the first bin also holds 0.

    Returns:
        The curve.
    """
    bin_index = np.digitize(confidences, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    counts = np.bincount(bin_index, minlength=bins)
    confidence = np.bincount(bin_index, confidences, minlength=bins)
    accuracy = np.bincount(bin_index, correct.astype(float), minlength=bins)

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

    return ReliabilityCurve(counts.tolist(), means(confidence), means(accuracy))


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Find the temperature that minimizes the negative log-likelihood (Guo et al. 2017, Section 4.2).

    Each class counts equally, as in macro recall: answers for rare classes are less often correct, and a temperature
    fitted to the frequent classes would leave these answers overconfident.

    Args:
        probabilities: (N, K) probabilities at temperature 1.
        targets: (N,) class indices.

    Returns:
        The temperature T, between 0.1 and 10, at which probabilities proportional to p ** (1 / T) have the highest
        likelihood.
    """
    logits = np.log(np.maximum(probabilities, _EPSILON))
    temperatures = np.geomspace(0.1, 10, 401)
    weights = 1 / np.bincount(targets)[targets]

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        normalizer = np.logaddexp.reduce(scaled, axis=1)
        return float(np.average(normalizer - scaled[np.arange(len(targets)), targets], weights=weights))

    return float(min(temperatures, key=loss))


def brier_score(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean squared error of the probabilities, summed over the classes (Brier 1950).

    Args:
        probabilities: (N, K).
        targets: (N,) class indices.

    Returns:
        A number in [0, 2]: 0 is perfect; uniform probabilities score 1 - 1 / K.
    """
    truth = np.eye(probabilities.shape[1])[targets]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the true class.

    Args:
        probabilities: (N, K), clamped to at least 1e-12.
        targets: (N,) class indices.

    Returns:
        The mean in nats; uniform probabilities score log K.
    """
    likelihood = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(likelihood, _EPSILON)).mean())
