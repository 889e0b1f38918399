"""Bootstrap intervals: how far a figure may be off because the test faces are only a sample."""

import numpy as np

RESAMPLES = 1000
"""Resamples of an interval."""

LEVEL = 0.95
"""Share of the resamples that an interval holds."""

Interval = tuple[float, float]


def recognition_intervals(
    confusion: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, Interval]:
    """Return percentile intervals of accuracy, macro recall and macro F1.

    All three follow from the confusion matrix. Drawing N faces with replacement and counting them again is the same as
    drawing the matrix from a multinomial distribution with its own shares, so no face needs to be touched.

    Args:
        confusion: (K, K + 1) counts, as `explllm.metrics.recognition.confusion_matrix` gives them.
        resamples: Resamples R.
        seed: Seeds them.
        level: Share of the resamples between the two ends.

    Returns:
        ``accuracy``, ``macro_recall`` and ``macro_f1``, each with lower and upper end. A class that is not in a
        resample does not count in that resample's means.
    """
    classes, count = len(confusion), int(confusion.sum())
    drawn = np.random.default_rng(seed).multinomial(count, confusion.ravel() / count, size=resamples)
    drawn = drawn.reshape(resamples, *confusion.shape)
    right = drawn[:, range(classes), range(classes)]  # (R, K)
    occurs, predicted = drawn.sum(2), drawn[:, :, :classes].sum(1)  # (R, K) each
    counts = occurs > 0
    recall = right / np.maximum(occurs, 1)
    f1 = 2 * right / np.maximum(occurs + predicted, 1)
    figures = {
        "accuracy": right.sum(1) / count,
        "macro_recall": recall.mean(1, where=counts),
        "macro_f1": f1.mean(1, where=counts),
    }
    return {name: _ends(values, level) for name, values in figures.items()}


def difference_interval(
    both: int,
    only_first: int,
    only_second: int,
    neither: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the percentile interval of the difference of two models' accuracies on the same faces.

    A resample draws faces, and with each face both models' answers: the bootstrap is paired.

    Args:
        both: Faces that both recognize.
        only_first: Faces that only the first one recognizes.
        only_second: Faces that only the second one recognizes.
        neither: Faces that neither recognizes.
        resamples: Resamples.
        seed: Seeds them.
        level: Share of the resamples between the two ends.

    Returns:
        Lower and upper end of the first model's accuracy less the second one's.
    """
    counts = np.array([both, only_first, only_second, neither])
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return _ends((drawn[:, 1] - drawn[:, 2]) / counts.sum(), level)


def _ends(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
