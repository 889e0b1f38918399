import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_calibration_error

from explllm.metrics.calibration import brier_score, fit_temperature, negative_log_likelihood, reliability_curve


@pytest.fixture
def answers():
    random = np.random.default_rng(1)
    return random.dirichlet(np.full(7, 0.4), size=500), random.integers(0, 7, size=500)


def test_by_hand():
    """Two answers at 0.9, one of them right, and two at 0.6, both right: gaps of 0.4 and 0.4."""
    curve = reliability_curve(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, True]), bins=5)
    assert curve.counts == [0, 0, 2, 0, 2]
    assert curve.accuracy == [None, None, 1.0, None, 0.5]
    assert curve.confidence[2] == pytest.approx(0.6)
    assert curve.expected_calibration_error == pytest.approx(0.4)


def test_bins_hold_their_upper_edge():
    curve = reliability_curve(np.array([0.0, 0.25, 0.26, 1.0]), np.ones(4, dtype=bool), bins=4)
    assert curve.counts == [2, 1, 0, 1]


def test_equals_torchmetrics(answers):
    probabilities, targets = answers
    predictions = probabilities.argmax(1)
    curve = reliability_curve(probabilities.max(1), predictions == targets)
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), num_classes=7, n_bins=15, norm="l1"
    )
    assert curve.expected_calibration_error == pytest.approx(float(expected), abs=1e-6)
    assert sum(curve.counts) == 500 and len(curve.counts) == 15


def test_perfect_confidence_is_calibrated():
    random = np.random.default_rng(2)
    confidences = random.uniform(size=200_000)
    curve = reliability_curve(confidences, random.uniform(size=200_000) < confidences)
    assert curve.expected_calibration_error < 0.01


def test_scores_equal_scikit_learn(answers):
    probabilities, targets = answers
    assert negative_log_likelihood(probabilities, targets) == pytest.approx(
        reference.log_loss(targets, probabilities, labels=range(7))
    )
    truth = np.eye(7)[targets]
    by_class = [reference.brier_score_loss(truth[:, place], probabilities[:, place]) for place in range(7)]
    assert brier_score(probabilities, targets) == pytest.approx(sum(by_class))
    assert brier_score(np.full((3, 4), 0.25), np.array([0, 1, 3])) == pytest.approx(3 / 4)
    assert np.isfinite(negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])))


def test_temperature_of_overconfident_answers():
    """Targets drawn from known probabilities, which are then sharpened three times: the temperature is 3."""
    random = np.random.default_rng(2)
    true = random.dirichlet(np.full(4, 0.7), size=20_000)
    targets = (true.cumsum(1) > random.uniform(size=(len(true), 1))).argmax(1)
    sharpened = true**3 / (true**3).sum(1, keepdims=True)
    assert fit_temperature(sharpened, targets) == pytest.approx(3, rel=0.05)
    assert fit_temperature(true, targets) == pytest.approx(1, rel=0.05)
