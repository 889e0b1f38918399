import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from explllm.metrics.bootstrap import difference_interval, recognition_intervals
from explllm.metrics.recognition import confusion_matrix


@pytest.fixture
def answers():
    random = np.random.default_rng(3)
    targets = random.integers(0, 3, size=150)
    predictions = np.where(random.uniform(size=150) < 0.7, targets, random.integers(-1, 3, size=150))
    return predictions, targets


def confusion_of(predictions, targets, classes=3):
    return confusion_matrix(torch.from_numpy(predictions), torch.from_numpy(targets), classes).numpy()


def test_equals_drawing_faces(answers):
    """The slow way: draw faces with replacement and score them by scikit-learn."""
    predictions, targets = answers
    random = np.random.default_rng(4)
    scores = {"accuracy": [], "macro_recall": [], "macro_f1": []}
    for _ in range(1500):
        drawn = random.integers(0, 150, size=150)
        truth, answer = targets[drawn], predictions[drawn]
        scores["accuracy"].append(reference.accuracy_score(truth, answer))
        _, recall, f1, _ = reference.precision_recall_fscore_support(truth, answer, labels=range(3), average="macro")
        scores["macro_recall"].append(recall)
        scores["macro_f1"].append(f1)
    found = recognition_intervals(confusion_of(predictions, targets), resamples=20_000)
    assert set(found) == set(scores)
    for name, values in scores.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.012), name


def test_seeded(answers):
    confusion = confusion_of(*answers)
    assert recognition_intervals(confusion) == recognition_intervals(confusion)
    assert recognition_intervals(confusion) != recognition_intervals(confusion, seed=1)


def test_rare_classes_do_not_count_where_they_are_not_drawn():
    """One face of the second class, recognized: without it macro recall is that of the first class alone."""
    found = recognition_intervals(np.array([[50, 50, 0], [0, 1, 0]]), resamples=5000)
    low, high = found["macro_recall"]
    assert 0.38 < low < 0.5 < 0.75 < high < 0.82
    assert found["accuracy"][1] < 0.65


def test_intervals_narrow_with_more_faces():
    few, many = (recognition_intervals(count * np.array([[8, 2, 0], [3, 7, 0]])) for count in (5, 500))
    assert np.diff(few["accuracy"]) > 5 * np.diff(many["accuracy"])


def test_difference_is_paired():
    """Two models that agree on nearly all faces: what both recognize does not blur their difference."""
    low, high = difference_interval(both=800, only_first=30, only_second=10, neither=160)
    assert 0 < low < 0.02 < high < 0.04
    # Normal theory: the standard error of (n10 - n01) / N.
    error = np.sqrt((30 + 10) / 1000 - 0.02**2) / np.sqrt(1000)
    assert (low, high) == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=0.002)
    assert difference_interval(5, 0, 0, 5) == (0, 0)
