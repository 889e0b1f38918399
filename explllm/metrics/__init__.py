"""Metrics of recognition, explanations and action units, as functions and as `torchmetrics.Metric` classes.

`answers` maps a table of predictions to classes; `evaluation` computes all metrics of a test from them, with
`recognition`, `calibration`, `bootstrap` intervals and `significance` tests. `chain_of_thought`, `grounding_gain` and
`exp_cot_score` score explanations; `judges` is the registry of judges. `au_regression` and `facs` score action units.
`comparison` compares the tests of several runs. The names below load on first use, because most need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.metrics.answers import Answers
    from explllm.metrics.au_regression import ActionUnitAgreement
    from explllm.metrics.chain_of_thought import ChainOfThoughtMetrics, chain_of_thought_metrics
    from explllm.metrics.comparison import compare_runs, read_runs
    from explllm.metrics.evaluation import explanation_metrics, recognition_metrics
    from explllm.metrics.exp_cot_score import ExpCoTScore, Judgment
    from explllm.metrics.facs import FacsF1
    from explllm.metrics.recognition import RecognitionMetrics

_MODULES = {
    "ActionUnitAgreement": "au_regression",
    "Answers": "answers",
    "ChainOfThoughtMetrics": "chain_of_thought",
    "ExpCoTScore": "exp_cot_score",
    "FacsF1": "facs",
    "Judgment": "exp_cot_score",
    "RecognitionMetrics": "recognition",
    "chain_of_thought_metrics": "chain_of_thought",
    "compare_runs": "comparison",
    "explanation_metrics": "evaluation",
    "read_runs": "comparison",
    "recognition_metrics": "evaluation",
}

__all__ = [
    "ActionUnitAgreement",
    "Answers",
    "ChainOfThoughtMetrics",
    "ExpCoTScore",
    "FacsF1",
    "Judgment",
    "RecognitionMetrics",
    "chain_of_thought_metrics",
    "compare_runs",
    "explanation_metrics",
    "read_runs",
    "recognition_metrics",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
