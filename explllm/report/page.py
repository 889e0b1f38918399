"""The HTML page of a run: one self-contained file that loads nothing from the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from explllm import __version__
from explllm.core.files import atomic_write
from explllm.metrics.evaluation import single_class_warning, training_faces_warning
from explllm.report.confusion import ScoredFace, confusion_cells, most_frequent_error
from explllm.report.explained import ExplainedFace
from explllm.report.plots import recognition_plots, write_plots
from explllm.report.published import PUBLISHED

__all__ = ["ExplainedFace", "MetricCard", "Section", "render_page", "write_report"]

PLOTS = "plots"
"""Name of the folder next to the page that contains the plots as PNG files."""


@dataclass(frozen=True)
class MetricCard:
    """A number shown large on a page."""

    name: str
    value: str
    """The formatted value."""
    note: str = ""
    """Small print below the value: an interval, a unit, a source."""
    key: str = ""
    """The metric's key in ``metrics.json``, for programs that read the page; empty to omit it."""


@dataclass(frozen=True)
class Section:
    """An additional section of a page, such as a judge's scores. All texts are plain text and are HTML-escaped."""

    title: str
    text: str = ""
    notice: str = ""
    """A highlighted warning above the metrics."""
    cards: Sequence[MetricCard] = ()
    caption: str = ""
    """Caption of the table."""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """Cells of the table below `header`."""


def write_report(
    path: Path,
    name: str,
    metrics: Mapping[str, Any],
    faces: Sequence[ExplainedFace],
    sections: Sequence[Section] = (),
    tested: Sequence[ScoredFace] = (),
) -> None:
    """Write the page of a test atomically, and write its plots as PNG files to the folder ``plots`` next to the page.

    Args:
        path: The HTML file.
        name: The run's name.
        metrics: The content of ``metrics.json``, with the values of
            `explllm.metrics.evaluation.recognition_metrics` under ``test/``.
        faces: Explained faces to show.
        sections: Additional sections, between the metrics and the faces.
        tested: The scored faces of the test; the cells of the confusion matrix show as many of them as fit.
    """
    test_metrics = {key.removeprefix("test/"): value for key, value in metrics.items() if key.startswith("test/")}
    plots = recognition_plots(test_metrics)
    cards = _cards(test_metrics)
    cells = confusion_cells(test_metrics, tested)
    page = render_page(
        "report.html.jinja",
        name=name,
        version=metrics["explllm"],
        metrics=test_metrics,
        summary=_summary(test_metrics),
        headline=cards[:3],
        further=cards[3:],
        warning=single_class_warning(test_metrics),
        notices=_notices(metrics.get("training_data_note"), test_metrics),
        cells=cells,
        opened=most_frequent_error(cells),
        # The other plots duplicate tables on the page.
        plots=[plot for plot in plots if plot.name in ("reliability", "predictions")],
        faces=faces,
        sections=sections,
        published=PUBLISHED,
    )
    write_plots(path.parent / PLOTS, plots)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_page(template: str, **values: Any) -> str:
    """Render one of the package's templates as HTML."""
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("explllm.report"), autoescape=True, **options)
    environment.filters |= {"metric": _metric, "number": "{:,}".format, "percent": _percent}
    return environment.get_template(template).render(**{"version": __version__, **values})


def _summary(metrics: Mapping[str, Any]) -> str:
    """Return the summary sentences at the top of the page."""
    correct = round(metrics["accuracy"] * metrics["count"])
    sentences = [f"The model recognized {correct:,} of {metrics['count']:,} faces correctly."]
    recalls = [(name, value) for name, value in metrics["recall"].items() if value is not None]
    if len(recalls) > 1:
        worst, low = min(recalls, key=lambda pair: pair[1])
        best, high = max(recalls, key=lambda pair: pair[1])
        if low < high:
            best_at = f"best at {best} ({_percent(high)} of these faces recognized)"
            sentences.append(f"It is {best_at} and worst at {worst} ({_percent(low)}).")
    return " ".join(sentences)


def _cards(metrics: Mapping[str, Any]) -> list[MetricCard]:
    def card(key: str, name: str, note: str = "") -> MetricCard:
        bounds = metrics.get(f"{key}_interval")
        interval = f"{bounds[0]:.3f} to {bounds[1]:.3f} (95%)" if bounds else note
        return MetricCard(name, _metric(metrics[key]), interval, f"test/{key}")

    left_out = metrics["auroc_left_out"]
    classes = f"without {', '.join(left_out)}" if left_out and metrics["auroc"] is not None else "one-vs-rest"
    cards = [card("accuracy", "accuracy"), card("macro_recall", "macro recall"), card("macro_f1", "macro F1")]
    if metrics["with_probabilities"]:
        cards += [
            card("ece", "calibration error (ECE)", "0 is best"),
            card("auroc", "AUROC", classes),
            card("nll", "negative log-likelihood", "nats; 0 is best"),
            card("brier", "Brier score", "0 is best, 2 is worst"),
        ]
    return cards


def _notices(training_data_note: str | None, metrics: Mapping[str, Any]) -> list[str]:
    """Return the caveats that readers need before the metrics."""
    notices = [text for text in (training_faces_warning(metrics), training_data_note) if text]
    if unreadable := len(metrics.get("unreadable", ())):
        notices.append(f"{unreadable:,} more faces could not be read and are not scored.")
    if metrics["left_out"]:
        counts = ", ".join(f"{count:,} {name}" for name, count in metrics["left_out"].items())
        notices.append(f"Left out, because the model does not know their expression: {counts}.")
    if metrics["dropped_labels"]:
        notices.append(
            f"The model also knows {', '.join(metrics['dropped_labels'])}, which was not a possible answer here; its "
            "probability was redistributed among the other expressions."
        )
    if metrics["no_label"]:
        notices.append(f"{metrics['no_label']:,} answers name no expression; they count as wrong.")
    if 0 < metrics["with_probabilities"] < metrics["count"]:
        notices.append(
            "Calibration, AUROC, log-likelihood and Brier score describe the "
            f"{metrics['with_probabilities']:,} faces with probabilities."
        )
    return notices


def _metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
