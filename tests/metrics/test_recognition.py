import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from explllm.core.expressions import LABEL_SETS
from explllm.metrics.recognition import RecognitionMetrics

LABELS = tuple(LABEL_SETS["rafdb"])


@pytest.fixture
def answers():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(7), size=200)
    return torch.tensor(probabilities, dtype=torch.float32), torch.tensor(random.integers(0, 6, size=200))


def test_equals_scikit_learn(answers):
    probabilities, targets = answers
    metric = RecognitionMetrics(LABELS)
    for start in range(0, 200, 33):
        metric.update(probabilities[start : start + 33], targets[start : start + 33])
    figures = metric.compute()
    predicted = probabilities.argmax(1)
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    # Class 6 never occurs: it has no recall and does not count in the mean.
    present = reference.recall_score(targets, predicted, labels=range(6), average=None)
    assert figures["macro_recall"] == pytest.approx(present.mean())
    assert list(figures["recall"].values())[:6] == pytest.approx(present)
    assert figures["recall"]["Neutral"] is None
    assert figures["nll"] == pytest.approx(reference.log_loss(targets, probabilities.double(), labels=range(7)))
    assert list(figures["predictions"].values()) == np.bincount(predicted, minlength=7).tolist()
    assert figures["count"] == 200


def test_a_collapse_to_one_class_shows(answers):
    _, targets = answers
    metric = RecognitionMetrics(LABELS)
    metric.update(torch.nn.functional.one_hot(torch.full((200,), 3), 7).float(), targets)
    figures = metric.compute()
    assert figures["macro_recall"] == pytest.approx(1 / 6)
    assert figures["predictions"]["Happiness"] == 200
