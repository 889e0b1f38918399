"""Compute all metrics of a test from a model's answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torchmetrics.functional.classification import binary_auroc

from explllm.core.expressions import Expression
from explllm.metrics.answers import Answers
from explllm.metrics.bootstrap import RESAMPLES, recognition_intervals
from explllm.metrics.calibration import brier_score, negative_log_likelihood, reliability_curve
from explllm.metrics.chain_of_thought import chain_of_thought_metrics
from explllm.metrics.exp_cot_score import exp_cot_score
from explllm.metrics.grounding_gain import grounding_gain
from explllm.metrics.judges.rules import OfflineJudge
from explllm.metrics.recognition import NO_LABEL, confusion_matrix, recognition_summary

_ONE_CLASS_SHARE = 0.98
_NEAR_CHANCE = 1.5


def auroc_by_class(
    probabilities: np.ndarray, targets: np.ndarray, labels: tuple[Expression, ...]
) -> dict[str, float | None]:
    """Return the one-vs-rest area under the ROC curve of each class.

    Args:
        probabilities: (N, K).
        targets: (N,) class indices.
        labels: The K classes.

    Returns:
        The area by class; 0.5 is chance. None if no face, or every face, belongs to the class.
    """
    areas: dict[str, float | None] = {}
    for index, label in enumerate(labels):
        truth = torch.from_numpy(targets == index).long()
        defined = 0 < int(truth.sum()) < len(truth)
        scores = torch.from_numpy(np.ascontiguousarray(probabilities[:, index])).clamp(0, 1)
        areas[str(label)] = float(binary_auroc(scores, truth)) if defined else None
    return areas


def recognition_metrics(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute the recognition metrics of a test.

    Args:
        answers: The answers, for at least one face.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The values of `recognition_summary`; ``recall/<Expression>``, ``precision/<Expression>`` and
        ``f1/<Expression>``, the same values under flat keys; ``accuracy_interval``, ``macro_recall_interval`` and
        ``macro_f1_interval``, 95% bootstrap intervals; ``confusion`` (rows: ``labels``; columns: ``labels``, then
        answers that name no class); ``left_out`` and ``dropped_labels`` as in `Answers`; ``with_probabilities``, the
        number of faces that have probabilities. For these faces only: ``nll``, ``brier``, ``ece``, ``reliability``,
        ``auroc`` (mean over the classes) and ``auroc_left_out``, the classes without a defined area. If no face has
        probabilities, ``auroc_left_out`` lists all classes, and the other five values are None.
    """
    confusion = confusion_matrix(
        torch.from_numpy(answers.predictions), torch.from_numpy(answers.targets), len(answers.labels)
    )
    scored = _probability_metrics(answers)
    metrics = recognition_summary(confusion, scored["nll"], answers.labels)
    metrics |= {
        f"{kind}/{name}": value for kind in ("recall", "precision", "f1") for name, value in metrics[kind].items()
    }
    intervals = recognition_intervals(confusion.numpy(), resamples, seed)
    metrics |= {f"{name}_interval": list(ends) for name, ends in intervals.items()}
    return {
        **metrics,
        **scored,
        "labels": [str(label) for label in answers.labels],
        "confusion": confusion.tolist(),
        "left_out": answers.left_out,
        "dropped_labels": [str(label) for label in answers.dropped],
    }


def training_faces_warning(metrics: Mapping[str, Any]) -> str | None:
    """Return a warning if test faces are training or validation faces of the model; `metrics` are those of a test."""
    if not (count := metrics.get("training_faces")):
        return None
    return (
        f"The model was trained or validated on {count:,} of these {metrics['count']:,} faces: the metrics do not show "
        "how well it recognizes new faces."
    )


def single_class_warning(metrics: Mapping[str, Any]) -> str | None:
    """Return a warning if a model predicts the same expression for nearly every face.

    Return None if more than 2% of the answers differ from the most frequent one, if macro recall exceeds 1.5 times
    chance, or if fewer than two expressions occur. `metrics` is the result of `recognition_metrics` or
    `explllm.metrics.recognition.recognition_summary`.
    """
    name, most = max(metrics["predictions"].items(), key=lambda pair: pair[1], default=("", 0))
    classes = sum(count > 0 for count in metrics["targets"].values())
    share = most / max(metrics["count"], 1)
    if classes < 2 or share < _ONE_CLASS_SHARE or metrics["macro_recall"] > _NEAR_CHANCE / classes:
        return None
    faces = "every face" if most == metrics["count"] else f"{share:.1%} of the faces"
    truth = metrics["targets"][name] / metrics["count"]
    return (
        f"The model predicts {name} for {faces}: it does not distinguish expressions. "
        f"Macro recall {metrics['macro_recall']:.3f} is at chance ({1 / classes:.3f} with {classes} classes); "
        f"accuracy {metrics['accuracy']:.3f} only reflects that {truth:.1%} of the faces are labeled {name}."
    )


def explanation_metrics(
    texts: Sequence[str],
    labels: Sequence[Expression | None],
    action_units: Sequence[Sequence[float | None] | None],
    references: Sequence[str | None],
) -> dict[str, Any]:
    """Compute the metrics of explanations, including the offline judge's scores.

    Args:
        texts: Chains of thought.
        labels: The label that each text follows.
        action_units: 24 intensities per face, or None.
        references: The reference text of each face, or None.

    Returns:
        The values of `explllm.metrics.chain_of_thought.chain_of_thought_metrics` and
        `explllm.metrics.grounding_gain.grounding_gain`; with references also ``exp_cot_score`` and
        ``judge``. Empty if there are no texts.
    """
    if not texts:
        return {}
    metrics: dict[str, Any] = {
        **chain_of_thought_metrics(texts, labels, action_units),
        **grounding_gain(texts, labels, action_units),
    }
    judge = OfflineJudge()
    judgments = [judge.compare(text, reference) for text, reference in zip(texts, references, strict=True) if reference]
    if judgments:
        metrics |= {"exp_cot_score": exp_cot_score(judgments), "judge": judge.name}
    return metrics


def best_and_worst_faces(table: pd.DataFrame, number: int) -> list[object]:
    """Choose faces to show, alternating between correct answers and errors, with the clearest cases first.

    The next correct answer is the one with the highest probability of the true label; the next error is the one with
    the lowest. A face whose true expression has not been shown yet takes precedence, even over the alternation.

    Args:
        table: Columns ``expression``, ``correct`` (bool) and ``truth_probability`` (of the true label).
        number: Maximum number of faces; if it is odd, correct answers get one more turn than errors.

    Returns:
        Index labels of the table: correct answers, then errors, both in the order in which they were chosen.
    """
    ordered = table.sort_values("truth_probability", kind="stable", ascending=False)
    best, worst = ordered[ordered["correct"]], ordered[~ordered["correct"]].iloc[::-1]
    chosen: list[tuple[bool, object]] = []
    used: set[str] = set()
    for turn in range(number):
        pools = [(True, best), (False, worst)] if turn % 2 == 0 else [(False, worst), (True, best)]
        unseen = [(correct, pool[~pool["expression"].isin(used)]) for correct, pool in pools]
        pick = next(((correct, pool) for correct, pool in [*unseen, *pools] if len(pool)), None)
        if pick is None:
            break
        correct, pool = pick
        label = pool.index[0]
        used.add(pool["expression"].iloc[0])
        chosen.append((correct, label))
        best, worst = (rest.drop(label, errors="ignore") for rest in (best, worst))
    return [label for group in (True, False) for correct, label in chosen if correct == group]


def _probability_metrics(answers: Answers) -> dict[str, Any]:
    known = ~np.isnan(answers.probabilities).any(axis=1)
    if not known.any():
        undefined: dict[str, Any] = dict.fromkeys(("nll", "brier", "ece", "reliability", "auroc"))
        return {**undefined, "auroc_left_out": [str(label) for label in answers.labels], "with_probabilities": 0}
    shares, targets, predictions = (
        values[known] for values in (answers.probabilities, answers.targets, answers.predictions)
    )
    # An answer that names no class has no probability of its own; the probability of the most likely class counts as
    # its confidence.
    chosen = np.where(predictions == NO_LABEL, shares.argmax(1), predictions)
    curve = reliability_curve(shares[np.arange(len(shares)), chosen], predictions == targets)
    areas = auroc_by_class(shares, targets, answers.labels)
    defined = [area for area in areas.values() if area is not None]
    return {
        "nll": negative_log_likelihood(shares, targets),
        "brier": brier_score(shares, targets),
        "ece": curve.expected_calibration_error,
        "reliability": {"counts": curve.counts, "confidence": curve.confidence, "accuracy": curve.accuracy},
        "auroc": sum(defined) / len(defined) if defined else None,
        "auroc_left_out": [name for name, area in areas.items() if area is None],
        "with_probabilities": int(known.sum()),
    }
