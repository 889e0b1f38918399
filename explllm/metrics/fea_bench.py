"""FEABench: score a model's expressions, action units and reasoning on the test faces of a manifest.

FEALLM's authors mention a benchmark but did not release it. The tasks follow their abstract; the thresholds
and rules are this project's own.

An answer table has one row per face, with any of the columns ``predicted`` (a word), ``units_text`` (the answer to the
question for active units), ``cot`` (reasoning) and ``p_active`` (a dictionary of probabilities by unit). Without
``units_text``, the units are read from ``cot``. A missing or unreadable answer is treated as naming no expression
and no units.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from explllm.core.action_units import FEAFA, NAMES
from explllm.core.expressions import Expression
from explllm.core.facs import FacsUnit, facs_set
from explllm.core.manifest import Manifest
from explllm.explanations.claims import claims
from explllm.explanations.grounding import STRONG
from explllm.explanations.unit_numbers import stated_units
from explllm.metrics.answers import Answers
from explllm.metrics.chain_of_thought import chain_of_thought_metrics
from explllm.metrics.evaluation import recognition_metrics
from explllm.metrics.exp_cot_score import exp_cot_score
from explllm.metrics.facs import ACTIVE_FROM, facs_counts, facs_f1, facs_intensities
from explllm.metrics.judges import RuleJudge, find_judge

_log = logging.getLogger(__name__)

UNCALIBRATED = 0.5
"""Minimum probability at which a unit counts as active if no validation face shows the unit."""


@dataclass(frozen=True)
class UnitTruth:
    """The true action units of N faces."""

    names: tuple[str, ...]
    """Names of the K units in the form used in questions: ``Jaw Drop`` or ``AU26 (Jaw Drop)``, for example."""
    facs: tuple[FacsUnit, ...]
    """The K FACS units; empty for FEAFA's units."""
    active: np.ndarray
    """(N, K): 1, 0, or NaN for a unit that was not measured."""


def unit_truth(manifest: Manifest, active_from: float = STRONG) -> UnitTruth | None:
    """Return the true action units of a manifest.

    Args:
        manifest: The manifest, with FACS labels (columns ``facs`` and ``facs_set``) or FEAFA intensities.
        active_from: Minimum FEAFA intensity of an active unit. FACS labels are already binary; for DISFA, intensities
            of 2 or more count as active.

    Returns:
        The units; None if the manifest contains no units. FEAFA units that were never measured are left out.

    Raises:
        ManifestError: If the FACS labels are invalid.
    """
    name, labels = manifest.facs_labels()
    if name is not None and not np.isnan(labels).all():
        units = facs_set(name)
        return UnitTruth(tuple(unit.label for unit in units), units, labels.astype(float))
    if "action_units" not in manifest.frame:
        return None
    missing: list[float | None] = [None] * len(FEAFA)
    intensities = np.array([units or missing for units in manifest.intensities()], float).reshape(-1, len(FEAFA))
    if not len(intensities) or np.isnan(intensities).all():
        return None
    active = np.where(np.isnan(intensities), np.nan, intensities >= active_from)
    kept = np.atleast_1d(~np.isnan(active).all(axis=0))
    names = tuple(name for name, keep in zip(NAMES, kept, strict=True) if keep)
    return UnitTruth(names, (), active[:, kept])


def claimed_intensities(text: str | None) -> list[float]:
    """Read action units from free text with the shared lexicon.

    Args:
        text: Any text; None for no answer.

    Returns:
        24 intensities in FEAFA's order. The intensity of a claim is the midpoint of its intensity word's range, or 1 if
        it has no intensity word. A unit has the highest intensity of its claims, or 0 if it is only denied or not
        mentioned.
    """
    intensities = [0.0] * len(FEAFA)
    for claim in claims(text or ""):
        if claim.present:
            low, high = claim.low, claim.high
            value = 1.0 if low is None or high is None else (low + min(high, 1.0)) / 2
            intensities[claim.unit] = max(intensities[claim.unit], value)
    return intensities


def units_from_texts(texts: Sequence[str | None], truth: UnitTruth, active_from: float = STRONG) -> np.ndarray:
    """Detect action units in texts.

    A FACS unit is active if the text lists its number, or if the lexicon finds a FEAFA counterpart on either side with
    an intensity of at least `ACTIVE_FROM`. A unit whose number the text denies is inactive. An intensity word takes
    precedence over a number: "slight jaw drop (AU26)" counts like "slight jaw drop". For FEAFA units, only words count:
    these units have sides, which FACS numbers do not specify.

    Args:
        texts: N texts.
        truth: The units.
        active_from: Minimum claimed intensity of an active FEAFA unit.

    Returns:
        (N, K) bool.
    """
    intensities = np.array([claimed_intensities(text) for text in texts], float).reshape(-1, len(FEAFA))
    if not truth.facs:
        return intensities[:, [NAMES.index(name) for name in truth.names]] >= active_from
    mapped = np.nan_to_num(facs_intensities(torch.from_numpy(intensities), truth.facs).numpy())
    stated = [stated_units(text or "") for text in texts]
    # 1 for a listed number, 0 for a denied one, NaN for one that is not mentioned.
    numbers = np.array([[row.get(unit.number, np.nan) for unit in truth.facs] for row in stated], float)
    numbers = numbers.reshape(mapped.shape)
    return np.where(mapped > 0, (mapped >= ACTIVE_FROM) & (numbers != 0), numbers == 1)


def unit_metrics(active: np.ndarray, truth: UnitTruth) -> dict[str, Any]:
    """Compute the F1 of each unit, and the mean F1.

    Args:
        active: (N, K) bool, the detections.
        truth: The true units.

    Returns:
        ``f1`` by unit, None for a unit that never occurs and is never detected; ``mean_f1`` over the other units;
        ``active``: number of faces that show each unit; ``faces``.
    """
    known = ~np.isnan(truth.active)
    counts = facs_counts(torch.from_numpy(active & known), torch.from_numpy(np.nan_to_num(truth.active)))
    scores = [None if score != score else score for score in facs_f1(counts).tolist()]
    defined = [score for score in scores if score is not None]
    return {
        "f1": dict(zip(truth.names, scores, strict=True)),
        "mean_f1": sum(defined) / len(defined) if defined else None,
        "active": dict(zip(truth.names, (counts[0] + counts[2]).tolist(), strict=True)),
        "faces": len(active),
    }


def choose_thresholds(probabilities: np.ndarray, truth: UnitTruth) -> np.ndarray:
    """For each unit, choose the threshold that gives the highest F1.

    Args:
        probabilities: (N, K), on validation faces; NaN for a face without an answer.
        truth: Their true units.

    Returns:
        (K,) thresholds: `UNCALIBRATED`, a value halfway between neighboring probabilities, or half the lowest
        probability; of equally good values, the one closest to `UNCALIBRATED`. NaN for a unit that no validation face
        with an answer shows.
    """
    thresholds = np.full(len(truth.names), np.nan)
    for unit in range(len(truth.names)):
        known = ~np.isnan(truth.active[:, unit]) & ~np.isnan(probabilities[:, unit])
        scores, labels = probabilities[known, unit], truth.active[known, unit] > 0
        if not labels.any():
            continue
        values = np.unique(scores)
        candidates = [UNCALIBRATED, *((values[1:] + values[:-1]) / 2), float(values[0]) / 2]
        thresholds[unit] = max(candidates, key=lambda value: (_f1(scores >= value, labels), -abs(value - UNCALIBRATED)))
    return thresholds


def _f1(active: np.ndarray, labels: np.ndarray) -> float:
    return 2 * float((active & labels).sum()) / max(float(active.sum() + labels.sum()), 1)


def bench_metrics(
    manifest: Manifest,
    answers: pd.DataFrame,
    labels: Sequence[Expression],
    validation: tuple[Manifest, pd.DataFrame] | None = None,
    active_from: float = STRONG,
    judge: str = "offline",
) -> dict[str, Any]:
    """Compute all metrics of one model.

    Args:
        manifest: The test faces.
        answers: The answer table, in the order of the manifest's rows.
        labels: The expressions that the model chooses from. Faces with other expressions count as wrong, because all
            models of a benchmark are scored on the same faces.
        validation: Validation faces and the model's answers for these faces; thresholds are chosen on them.
        active_from: Minimum FEAFA intensity of an active unit.
        judge: Name of a registered `RuleJudge`, which compares reasoning with the manifest's chains of thought; other
            judges give no scores here.

    Returns:
        ``expression``: `recognition_metrics`, and ``not_a_label``, the number of faces of each expression that the
        model does not choose from. ``units_text`` and ``units_likelihood``: `unit_metrics`. ``units_likelihood`` also
        contains ``thresholds``; ``calibrated``, the units whose threshold was chosen on validation faces; and
        ``unreadable``, the number of cells and values of ``p_active`` that are not probabilities. ``reasoning``:
        ``answered`` and ``parsed`` (shares of faces), the metrics of `chain_of_thought_metrics` and, if there are
        reference texts, ``exp_cot_score``, ``judgments`` (the result of
        `explllm.metrics.exp_cot_score.exp_cot_score`) and ``judge``. A part is omitted if the model gives no such
        answers or, except for ``reasoning``, if the manifest lacks its labels.
    """
    metrics: dict[str, Any] = {}
    frame = manifest.frame
    texts = {name: _texts(answers, name) for name in ("units_text", "cot")}
    if "expression" in frame and frame["expression"].notna().any() and "predicted" in answers:
        metrics["expression"] = _expressions(frame["expression"], answers["predicted"], labels)
    truth = unit_truth(manifest, active_from)
    if truth is not None:
        spoken = texts["units_text"] if texts["units_text"] is not None else texts["cot"]
        if spoken is not None:
            metrics["units_text"] = unit_metrics(units_from_texts(spoken, truth, active_from), truth)
        if "p_active" in answers:
            chosen: dict[str, float] = {}
            if validation is not None and (known := unit_truth(validation[0], active_from)) is not None:
                probabilities, _ = _probabilities(validation[1], known)
                best = zip(known.names, choose_thresholds(probabilities, known).tolist(), strict=True)
                chosen = {name: value for name, value in best if name in truth.names and value == value}
            metrics["units_likelihood"] = _likely_units(answers, truth, chosen)
    if texts["cot"] is not None:
        metrics["reasoning"] = _reasoning(manifest, texts["cot"], judge)
    return metrics


def _expressions(truth: pd.Series, predicted: pd.Series, labels: Sequence[Expression]) -> dict[str, Any]:
    known = truth.notna().to_numpy()
    table = pd.DataFrame({"expression": truth[known].tolist(), "predicted": predicted[known].tolist()})
    # Score all eight classes for every model: leaving out faces would make models with fewer labels look better.
    metrics = recognition_metrics(Answers.from_table(table, tuple(Expression)))
    others = table["expression"][~table["expression"].isin([str(label) for label in labels])]
    return {**metrics, "not_a_label": {str(name): int(count) for name, count in others.value_counts().items()}}


def _likely_units(answers: pd.DataFrame, truth: UnitTruth, chosen: Mapping[str, float]) -> dict[str, Any]:
    thresholds = {name: chosen.get(name, UNCALIBRATED) for name in truth.names}
    probabilities, unreadable = _probabilities(answers, truth)
    if unreadable:
        _log.warning("%d cells or values of p_active are not probabilities; they count as missing.", unreadable)
    # A face without an answer counts as showing no unit, because NaN is never above a threshold.
    active = probabilities >= np.array(list(thresholds.values()))
    return {
        **unit_metrics(active, truth),
        "thresholds": thresholds,
        "calibrated": list(chosen),
        "unreadable": unreadable,
    }


def _reasoning(manifest: Manifest, texts: Sequence[str | None], judge: str) -> dict[str, Any]:
    frame = manifest.frame
    faces = len(frame)
    labels = [None if pd.isna(label) else Expression(label) for label in frame.get("expression", [None] * faces)]
    measured = list(manifest.intensities()) if "action_units" in frame else [None] * faces
    written = [number for number, text in enumerate(texts) if text]
    metrics = chain_of_thought_metrics(
        [str(texts[number]) for number in written],
        [labels[number] for number in written],
        [measured[number] for number in written],
    )
    undecided = metrics["undecided"] if written else 1.0
    result: dict[str, Any] = {
        "answered": len(written) / faces,
        # Share of all faces whose text names an expression.
        "parsed": len(written) / faces * (1 - (undecided or 0.0)),
        **metrics,
    }
    judged = find_judge(judge)
    references: list[Any] = list(frame.get("cot", [None] * faces))
    pairs = [(str(texts[number]), references[number]) for number in written if isinstance(references[number], str)]
    if isinstance(judged, RuleJudge) and pairs:
        scores = exp_cot_score(judged.compare(mine, theirs) for mine, theirs in pairs)
        result |= {"judge": judged.name, "exp_cot_score": scores["score"], "judgments": scores}
    return result


def _texts(answers: pd.DataFrame, column: str) -> list[str | None] | None:
    if column not in answers:
        return None
    return [value if isinstance(value, str) and value.strip() else None for value in answers[column]]


def _probabilities(answers: pd.DataFrame, truth: UnitTruth) -> tuple[np.ndarray, int]:
    """Return the probabilities (N, K), NaN if missing or unreadable, and the number of unreadable cells and values."""
    probabilities = np.full((len(answers), len(truth.names)), np.nan)
    if "p_active" not in answers:
        return probabilities, 0
    unreadable = 0
    for row, cell in enumerate(answers["p_active"]):
        if not isinstance(cell, Mapping):
            unreadable += not (cell is None or cell == "" or (isinstance(cell, float) and np.isnan(cell)))
            continue
        for place, name in enumerate(truth.names):
            if (value := cell.get(name)) is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = np.inf
            unreadable += number < 0 or number > 1
            probabilities[row, place] = number if 0 <= number <= 1 else np.nan
    return probabilities, int(unreadable)
