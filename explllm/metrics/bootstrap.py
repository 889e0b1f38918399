"""Bootstrap confidence intervals: the uncertainty of a metric that comes from the finite sample of test faces."""

import numpy as np

RESAMPLES = 1000
"""Default number of bootstrap resamples."""

LEVEL = 0.95
"""Default confidence level."""

Interval = tuple[float, float]


def recognition_intervals(
    confusion: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, Interval]:
    """Return percentile intervals of accuracy, macro recall and macro F1.

    All three follow from the confusion matrix. Drawing N faces with replacement and counting them is equivalent to
    drawing a confusion matrix from the multinomial distribution with the observed relative frequencies.

    Args:
        confusion: (K, K + 1) counts, from `explllm.metrics.recognition.confusion_matrix`.
        resamples: Number of resamples R.
        seed: Seed of the resampling.
        level: Confidence level.

    Returns:
        Lower and upper bound of ``accuracy``, ``macro_recall`` and ``macro_f1``. A class that is absent from a
        resample is left out of that resample's means.
    """
    classes, count = len(confusion), int(confusion.sum())
    drawn = np.random.default_rng(seed).multinomial(count, confusion.ravel() / count, size=resamples)
    drawn = drawn.reshape(resamples, *confusion.shape)
    right = drawn[:, range(classes), range(classes)]  # (R, K)
    occurs, predicted = drawn.sum(2), drawn[:, :, :classes].sum(1)  # (R, K) each
    counts = occurs > 0
    recall = right / np.maximum(occurs, 1)
    f1 = 2 * right / np.maximum(occurs + predicted, 1)
    metrics = {
        "accuracy": right.sum(1) / count,
        "macro_recall": recall.mean(1, where=counts),
        "macro_f1": f1.mean(1, where=counts),
    }
    return {name: percentile_interval(values, level) for name, values in metrics.items()}


def difference_interval(
    both: int,
    only_first: int,
    only_second: int,
    neither: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the percentile interval of the difference between two models' accuracies on the same faces.

    The bootstrap is paired: a resample draws faces, each with the answers of both models.

    Args:
        both: Number of faces that both models recognize.
        only_first: Number of faces that only the first model recognizes.
        only_second: Number of faces that only the second model recognizes.
        neither: Number of faces that neither model recognizes.
        resamples: Number of resamples.
        seed: Seed of the resampling.
        level: Confidence level.

    Returns:
        Lower and upper bound of the first model's accuracy minus the second model's.
    """
    counts = np.array([both, only_first, only_second, neither])
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return percentile_interval((drawn[:, 1] - drawn[:, 2]) / counts.sum(), level)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Return the percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
