"""Rendering of results: terminal tables, plots, annotated pictures and self-contained HTML pages.

`terminal` prints metrics and explained faces, `action_units` does so for action-unit tests, `plots` draws with
matplotlib, `page` renders HTML from the templates, `picture` annotates a photograph. `explained` holds the data of one
explained face. Nothing here computes metrics or runs a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.report.explained import ExplainedFace
    from explllm.report.page import MetricCard, Section, write_report
    from explllm.report.picture import PicturedFace, draw_picture
    from explllm.report.plots import recognition_plots
    from explllm.report.terminal import print_explained, print_metrics

_MODULES = {
    "ExplainedFace": "explained",
    "MetricCard": "page",
    "PicturedFace": "picture",
    "Section": "page",
    "draw_picture": "picture",
    "print_explained": "terminal",
    "print_metrics": "terminal",
    "recognition_plots": "plots",
    "write_report": "page",
}

__all__ = [
    "ExplainedFace",
    "MetricCard",
    "PicturedFace",
    "Section",
    "draw_picture",
    "print_explained",
    "print_metrics",
    "recognition_plots",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
