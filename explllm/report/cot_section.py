"""The part of a test's page about the words: grounding, and the offline judge's scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from explllm.metrics.chain_of_thought import chain_of_thought_metrics
from explllm.metrics.exp_cot_score import exp_cot_score
from explllm.metrics.judges import OfflineJudge
from explllm.report.explained import ExplainedFace
from explllm.report.page import MetricCard, Section
from explllm.report.published import EXP_COT_SCORES

_SHOWN = {
    "complete": "all three sections",
    "agreement": "conclusion agrees with the label",
    "grounding_f1": "action units, F1",
    "unsupported": "claims without evidence",
    "intensity_agreement": "intensity words that fit",
}


def cot_figures(faces: Sequence[ExplainedFace], references: Sequence[str | None]) -> dict[str, Any]:
    """Measure the chains of thought of explained faces.

    Args:
        faces: The faces.
        references: The data's own text about each, where there is one.

    Returns:
        What `chain_of_thought_metrics` gives, and ``exp_cot_score`` with ``judge`` where there are references; empty
        without faces.
    """
    if not faces:
        return {}
    # Only the first process has these faces: a metric with a state would wait for the others.
    figures: dict[str, Any] = chain_of_thought_metrics(
        [face.cot.text for face in faces],
        [face.recognition.expression for face in faces],
        [face.action_units for face in faces],
    )
    judge = OfflineJudge()
    judged = [
        judge.compare(face.cot.text, reference) for face, reference in zip(faces, references, strict=True) if reference
    ]
    if judged:
        figures |= {"exp_cot_score": exp_cot_score(judged), "judge": judge.name}
    return figures


def judged(face: ExplainedFace, reference: str) -> ExplainedFace:
    """Have the offline judge score a face's words.

    Args:
        face: The face.
        reference: The data's own text about it.

    Returns:
        The face with its `scores`.
    """
    judge = OfflineJudge()
    found = judge.compare(face.cot.text, reference)
    parts = f"key observations {found.key_observations:.1f}, interpretation {found.interpretation:.1f}"
    said = f"Exp-CoT Score {found.score:.2f} ({parts}, conclusion {found.conclusion:.1f}); judge: {judge.name}"
    return replace(face, scores=said)


def cot_section(figures: Mapping[str, Any]) -> Section:
    """Show what `cot_figures` gave.

    Args:
        figures: The figures.

    Returns:
        A part of the page.
    """
    cards = [
        MetricCard(name, f"{figures[key]:.3f}", key=f"test/cot/{key}")
        for key, name in _SHOWN.items()
        if figures[key] is not None
    ]
    rows: list[list[str]] = []
    if "judge" in figures:
        found = figures["exp_cot_score"]
        means = (found["key_observations"], found["interpretation"], found["conclusion"], found["score"])
        rows.append([f"this run; judge: {figures['judge']}", *(f"{value:.2f}" for value in means)])
        rows += [
            [f"{name} as published; judge: GPT-4o, 100 faces", *(f"{value:.2f}" for value in published)]
            for name, published in EXP_COT_SCORES.items()
        ]
    count = int(figures["count"])
    return Section(
        "What is said",
        text=f"Measured on the explanations of {count} face{'s' * (count != 1)}, chosen without a look at what the "
        "model makes of them: the first of each expression in turn. `explllm score` measures as many as there are "
        "texts for. Scores of different judges do not compare.",
        figures=cards,
        header=["Exp-CoT Score", "key observations", "interpretation", "conclusion", "score"] if rows else [],
        rows=rows,
    )
