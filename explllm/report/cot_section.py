"""The section about explanations on a test's page: grounding, and the judge's scores."""

from collections.abc import Mapping
from typing import Any

from explllm.report.page import MetricCard, Section
from explllm.report.published import EXP_COT_SCORES

_CARDS = {
    "grounding_gain": "grounding gain",
    "self_contradiction": "texts that contradict themselves",
    "complete": "all three sections present",
    "agreement": "conclusion agrees with the label",
    "grounding_f1": "action units, F1",
    "unsupported": "claims of absent action units",
    "intensity_agreement": "correct intensity words",
}


def cot_section(metrics: Mapping[str, Any]) -> Section:
    """Return the section of the page with the values of `explanation_metrics`."""
    cards = [
        MetricCard(name, f"{metrics[key]:.3f}", _note(metrics, key), key=f"test/cot/{key}")
        for key, name in _CARDS.items()
        if metrics.get(key) is not None
    ]
    rows: list[list[str]] = []
    if "judge" in metrics:
        scores = metrics["exp_cot_score"]
        means = (scores["key_observations"], scores["interpretation"], scores["conclusion"], scores["score"])
        rows.append([f"this run; judge: {metrics['judge']}", *(f"{value:.2f}" for value in means)])
        rows += [
            [f"{name} as published; judge: GPT-4o, 100 faces", *(f"{value:.2f}" for value in published)]
            for name, published in EXP_COT_SCORES.items()
        ]
    count = int(metrics["count"])
    return Section(
        "Explanations",
        text=f"Measured on the explanations of {count} face{'s' * (count != 1)}: the first faces of each expression in "
        "turn, regardless of the predictions. The command `explllm score` measures every text of a run. The "
        "grounding gain is the F1 of each text on its own face minus the F1 after texts are swapped between faces with "
        "the same predicted class; 0 means that the texts describe the class, not the face. Scores of different judges "
        "are not comparable.",
        cards=cards,
        caption="Exp-CoT Score: key observations, interpretation and conclusion from 0 to 5, score from 0 to 1",
        header=["Exp-CoT Score", "key observations", "interpretation", "conclusion", "score"] if rows else [],
        rows=rows,
    )


def _note(metrics: Mapping[str, Any], key: str) -> str:
    bounds = metrics.get(f"{key}_interval")
    return f"{bounds[0]:.3f} to {bounds[1]:.3f} (95%), {metrics['grounding_gain_faces']:,} faces" if bounds else ""
