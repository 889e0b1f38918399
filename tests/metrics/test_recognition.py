import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from explllm.core.expressions import LABEL_SETS
from explllm.metrics.recognition import NO_LABEL, RecognitionMetrics, confusion_matrix, recognition_summary

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
    metrics = metric.compute()
    predicted = probabilities.argmax(1)
    assert metrics["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    # Class 6 never occurs: it has no recall and does not count in the mean.
    for name, score in (("recall", reference.recall_score), ("f1", reference.f1_score)):
        present = score(targets, predicted, labels=range(6), average=None)
        assert metrics[f"macro_{name}"] == pytest.approx(present.mean())
        assert list(metrics[name].values())[:6] == pytest.approx(present)
    assert list(metrics["precision"].values()) == pytest.approx(
        reference.precision_score(targets, predicted, labels=range(7), average=None)
    )
    assert metrics["recall"]["Neutral"] is None
    assert metrics["f1"]["Neutral"] == 0  # it was predicted, and wrongly each time
    assert metrics["nll"] == pytest.approx(reference.log_loss(targets, probabilities.double(), labels=range(7)))
    assert list(metrics["predictions"].values()) == np.bincount(predicted, minlength=7).tolist()
    assert metrics["count"] == 200 and metrics["no_label"] == 0


def test_a_collapse_to_one_class_shows(answers):
    _, targets = answers
    metric = RecognitionMetrics(LABELS)
    metric.update(torch.nn.functional.one_hot(torch.full((200,), 3), 7).float(), targets)
    metrics = metric.compute()
    assert metrics["macro_recall"] == pytest.approx(1 / 6)
    assert metrics["predictions"]["Happiness"] == 200
    assert metrics["precision"]["Fear"] is None  # never predicted


def test_answers_without_a_label_are_wrong_and_counted():
    targets = torch.tensor([0, 0, 1, 1, 1])
    predictions = torch.tensor([0, NO_LABEL, 1, NO_LABEL, 0])
    confusion = confusion_matrix(predictions, targets, 2)
    assert confusion.tolist() == [[1, 0, 1], [1, 1, 1]]
    metrics = recognition_summary(confusion, None, LABELS[:2])
    assert metrics["accuracy"] == pytest.approx(2 / 5)
    assert metrics["no_label"] == 2 and metrics["count"] == 5 and metrics["nll"] is None
    assert metrics["recall"] == pytest.approx({"Surprise": 1 / 2, "Fear": 1 / 3})
    assert metrics["precision"] == pytest.approx({"Surprise": 1 / 2, "Fear": 1})


def test_states_add_up(answers):
    """As over processes: the sum of two metrics' states is the state of one that has seen all."""
    probabilities, targets = answers
    parts = [RecognitionMetrics(LABELS) for _ in range(2)]
    parts[0].update(probabilities[:60], targets[:60])
    parts[1].update(probabilities[60:], targets[60:])
    whole = RecognitionMetrics(LABELS)
    whole.update(probabilities, targets)
    parts[0].merge_state(parts[1])
    found, expected = parts[0].compute(), whole.compute()
    assert found.pop("nll") == pytest.approx(expected.pop("nll")) and found == expected
