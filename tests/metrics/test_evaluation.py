import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from explllm.core.expressions import LABEL_SETS
from explllm.metrics.answers import Answers
from explllm.metrics.evaluation import auroc_by_class, best_and_worst_faces, recognition_metrics, single_class_warning

LABELS = tuple(LABEL_SETS["rafdb"])
NAMES = [str(label) for label in LABELS]


def predictions(count=300, seed=0, classes=6):
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(7), size=count)
    targets = random.integers(0, classes, size=count)
    shares[np.arange(count), targets] += 0.4
    shares /= shares.sum(1, keepdims=True)
    table = pd.DataFrame(shares, columns=[f"p_{name}" for name in NAMES])
    table["expression"] = [NAMES[place] for place in targets]
    table["predicted"] = [NAMES[place] for place in shares.argmax(1)]
    return table, shares, targets


def test_metrics():
    table, shares, targets = predictions()
    metrics = recognition_metrics(Answers.from_table(table))
    assert metrics["accuracy"] == pytest.approx(reference.accuracy_score(table["expression"], table["predicted"]))
    assert metrics["macro_recall"] == pytest.approx(
        reference.balanced_accuracy_score(table["expression"], table["predicted"])
    )
    report = reference.classification_report(
        table["expression"], table["predicted"], labels=NAMES[:6], output_dict=True, zero_division=0
    )
    for name in NAMES[:6]:
        assert metrics[f"recall/{name}"] == metrics["recall"][name] == pytest.approx(report[name]["recall"])
        assert metrics[f"precision/{name}"] == pytest.approx(report[name]["precision"])
        assert metrics[f"f1/{name}"] == pytest.approx(report[name]["f1-score"])
    assert metrics["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert metrics["nll"] == pytest.approx(reference.log_loss(targets, shares, labels=range(7)))
    assert metrics["labels"] == NAMES
    assert metrics["confusion"] == [
        [*row, 0] for row in reference.confusion_matrix(table["expression"], table["predicted"], labels=NAMES).tolist()
    ]
    for name in ("accuracy", "macro_recall", "macro_f1"):
        low, high = metrics[f"{name}_interval"]
        assert low < metrics[name] < high
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_area_under_the_curve():
    table, shares, targets = predictions()
    metrics = recognition_metrics(Answers.from_table(table))
    areas = auroc_by_class(shares, targets, LABELS)
    for place, name in enumerate(NAMES[:6]):
        assert areas[name] == pytest.approx(reference.roc_auc_score(targets == place, shares[:, place]), abs=1e-6)
    # Class 6 has no faces: it is left out of the mean, and named.
    assert areas["Neutral"] is None and metrics["auroc_left_out"] == ["Neutral"]
    assert metrics["auroc"] == pytest.approx(np.mean([areas[name] for name in NAMES[:6]]))
    one = recognition_metrics(Answers.from_table(table[table["expression"] == "Fear"]))
    assert one["auroc"] is None and one["auroc_left_out"] == NAMES


def test_without_probabilities():
    table, _, _ = predictions()
    table.loc[:9, "predicted"] = "hard to say"
    metrics = recognition_metrics(Answers.from_table(table[["expression", "predicted"]], LABELS))
    assert metrics["no_label"] == 10 and metrics["count"] == 300
    assert metrics["accuracy"] == pytest.approx((table["expression"] == table["predicted"]).mean())
    assert [metrics[name] for name in ("nll", "ece", "brier", "auroc", "reliability")] == [None] * 5
    assert metrics["with_probabilities"] == 0


def test_some_probabilities():
    table, shares, targets = predictions()
    table.loc[100:, [f"p_{name}" for name in NAMES]] = np.nan
    table.loc[0, "predicted"] = "hard to say"
    metrics = recognition_metrics(Answers.from_table(table))
    assert metrics["with_probabilities"] == 100 and metrics["count"] == 300
    assert metrics["nll"] == pytest.approx(reference.log_loss(targets[:100], shares[:100], labels=range(7)))
    assert sum(metrics["reliability"]["counts"]) == 100


def test_a_constant_predictor_is_called_one():
    """The share of one class is no accuracy: 387 of 1,000 faces are happy, and all are called so."""
    truth = ["Happiness"] * 387 + [NAMES[place % 7] for place in range(613) if place % 7 != 3]
    table = pd.DataFrame({"expression": truth, "predicted": "Happiness"})
    metrics = recognition_metrics(Answers.from_table(table, LABELS))
    said = single_class_warning(metrics)
    assert metrics["macro_recall"] == pytest.approx(1 / 7)
    assert "predicts Happiness for every face" in said and "at chance (0.143 with 7 classes)" in said
    table.loc[:4, "predicted"] = "Fear"
    assert "for 99." in single_class_warning(recognition_metrics(Answers.from_table(table, LABELS)))


def test_a_good_model_on_one_sided_data_is_not_called_constant():
    table = pd.DataFrame({"expression": ["Happiness"] * 198 + ["Fear"] * 2})
    table["predicted"] = table["expression"]
    assert single_class_warning(recognition_metrics(Answers.from_table(table, LABELS))) is None
    assert (
        single_class_warning(recognition_metrics(Answers.from_table(table[:100], LABELS))) is None
    )  # one class is all there is
    assert single_class_warning(recognition_metrics(Answers.from_table(predictions()[0]))) is None
    assert (
        single_class_warning({"predictions": {}, "targets": {}, "count": 0, "macro_recall": 0.0, "accuracy": 0.0})
        is None
    )


def scored(*rows):
    return pd.DataFrame(rows, columns=["expression", "correct", "truth_probability"], index=range(100, 100 + len(rows)))


def test_best_and_worst():
    table = scored(
        ("Fear", True, 0.7),
        ("Fear", True, 0.9),
        ("Anger", True, 0.8),
        ("Disgust", False, 0.3),
        ("Fear", False, 0.01),
        ("Disgust", False, 0.1),
    )
    # The best of all; then the worst of another expression than its; then the best of a third one.
    assert best_and_worst_faces(table, 1) == [101]
    assert best_and_worst_faces(table, 2) == [101, 105]
    assert best_and_worst_faces(table, 3) == [101, 102, 105]
    assert best_and_worst_faces(table, 4) == [101, 102, 105, 104]
    assert len(best_and_worst_faces(table, 99)) == 6 and best_and_worst_faces(table, 0) == []


def test_different_expressions_come_before_best_and_worst():
    """A model that calls all faces fear: only one expression is recognized."""
    table = scored(("Fear", True, 0.9), ("Fear", True, 0.8), ("Anger", False, 0.2), ("Disgust", False, 0.1))
    assert best_and_worst_faces(table, 3) == [100, 103, 102]


def test_all_right_or_all_wrong():
    right = scored(("Fear", True, 0.9), ("Anger", True, 0.8), ("Fear", True, 0.7))
    assert best_and_worst_faces(right, 3) == [100, 101, 102]
    assert best_and_worst_faces(right.assign(correct=False), 2) == [102, 101]
    assert len(best_and_worst_faces(right.assign(truth_probability=np.nan), 2)) == 2
