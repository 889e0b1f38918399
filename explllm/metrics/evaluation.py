"""Every figure of a test, from the answers of a model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from explllm.core.expressions import Expression
from explllm.metrics.answers import Answers
from explllm.metrics.bootstrap import RESAMPLES, recognition_intervals
from explllm.metrics.calibration import brier_score, negative_log_likelihood, reliability_curve
from explllm.metrics.recognition import NO_LABEL, confusion_matrix, recognition_summary

_ONE_CLASS_SHARE = 0.98
_NEAR_CHANCE = 1.5


def auroc_by_class(
    probabilities: np.ndarray, targets: np.ndarray, labels: tuple[Expression, ...]
) -> dict[str, float | None]:
    """Return the area under each class's ROC curve, one against the rest.

    Args:
        probabilities: (N, K).
        targets: (N,) class numbers.
        labels: The K classes.

    Returns:
        The area by class, 0.5 being chance; None where no face, or every face, is of the class.
    """
    areas: dict[str, float | None] = {}
    for place, label in enumerate(labels):
        truth = torch.from_numpy(targets == place).long()
        defined = 0 < int(truth.sum()) < len(truth)
        scores = torch.from_numpy(np.ascontiguousarray(probabilities[:, place])).clamp(0, 1)
        areas[str(label)] = float(binary_auroc(scores, truth)) if defined else None
    return areas


def recognition_metrics(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute the figures of a test.

    Args:
        answers: The answers, for at least one face.
        resamples: Resamples of the bootstrap intervals.
        seed: Seeds them.

    Returns:
        What `recognition_summary` gives, with ``recall/<Expression>``, ``precision/...`` and ``f1/...`` also one by
        one; ``accuracy_interval``, ``macro_recall_interval``, ``macro_f1_interval``, 95% bootstrap intervals;
        ``confusion`` (rows: ``labels``, columns: the same and answers that name none); ``left_out`` and
        ``dropped_labels`` as in `Answers`; and of the faces with probabilities, which are ``with_probabilities`` many:
        ``nll``, ``brier``, ``ece``, ``reliability``, ``auroc`` (mean over classes) and ``auroc_left_out``, the classes
        for which no area is defined. These are None where no face has probabilities.
    """
    confusion = confusion_matrix(
        torch.from_numpy(answers.predictions), torch.from_numpy(answers.targets), len(answers.labels)
    )
    scored = _probability_metrics(answers)
    figures = recognition_summary(confusion, scored["nll"], answers.labels)
    figures |= {
        f"{kind}/{name}": value for kind in ("recall", "precision", "f1") for name, value in figures[kind].items()
    }
    intervals = recognition_intervals(confusion.numpy(), resamples, seed)
    figures |= {f"{name}_interval": list(ends) for name, ends in intervals.items()}
    return {
        **figures,
        **scored,
        "labels": [str(label) for label in answers.labels],
        "confusion": confusion.tolist(),
        "left_out": answers.left_out,
        "dropped_labels": [str(label) for label in answers.dropped],
    }


def single_class_warning(figures: Mapping[str, Any]) -> str | None:
    """Say so where a model gives nearly every face the same expression, however high its accuracy.

    Args:
        figures: What `recognition_metrics` or `explllm.metrics.recognition.recognition_summary` gives.

    Returns:
        Two sentences; None where at least 2% of the answers are others, or macro recall is well above chance.
    """
    name, most = max(figures["predictions"].items(), key=lambda pair: pair[1], default=("", 0))
    classes = sum(count > 0 for count in figures["targets"].values())
    share = most / max(figures["count"], 1)
    if classes < 2 or share < _ONE_CLASS_SHARE or figures["macro_recall"] > _NEAR_CHANCE / classes:
        return None
    faces = "every face" if most == figures["count"] else f"{share:.1%} of the faces"
    truth = figures["targets"][name] / figures["count"]
    return (
        f"The model predicts {name} for {faces}: it does not tell expressions apart. "
        f"Macro recall {figures['macro_recall']:.3f} is at chance ({1 / classes:.3f} with {classes} classes); "
        f"accuracy {figures['accuracy']:.3f} only reflects that {truth:.1%} of the faces are labeled {name}."
    )


def _probability_metrics(answers: Answers) -> dict[str, Any]:
    known = ~np.isnan(answers.probabilities).any(axis=1)
    if not known.any():
        figures: dict[str, Any] = dict.fromkeys(("nll", "brier", "ece", "reliability", "auroc"))
        return {**figures, "auroc_left_out": [str(label) for label in answers.labels], "with_probabilities": 0}
    shares, targets, predictions = (
        values[known] for values in (answers.probabilities, answers.targets, answers.predictions)
    )
    # An answer that names no class has no probability of its own; the model was as sure as of its likeliest class.
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
