"""The HTML page of a run: one self-contained file, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from explllm import __version__
from explllm.core.files import atomic_write
from explllm.metrics.evaluation import single_class_warning
from explllm.report.explained import ExplainedFace
from explllm.report.plots import Plot, recognition_plots, write_plots
from explllm.report.published import PUBLISHED

__all__ = ["ExplainedFace", "MetricCard", "Section", "render_page", "write_report"]

PLOTS = "plots"
"""The folder beside the page that holds its plots as PNG files."""


@dataclass(frozen=True)
class MetricCard:
    """A number that stands out on a page."""

    name: str
    value: str
    """As it is to be shown."""
    note: str = ""
    """Below it, small: an interval, a unit, a source."""
    key: str = ""
    """Its key in ``metrics.json``, for programs that read the page."""


@dataclass(frozen=True)
class Section:
    """A further part of a page, such as the scores of a judge. All texts are plain; what is HTML in them is escaped."""

    title: str
    text: str = ""
    notice: str = ""
    """Stands out: what must be known before the figures are read."""
    figures: Sequence[MetricCard] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """The cells of a table below `header`."""
    plots: Sequence[Plot] = ()


def write_report(
    path: Path,
    name: str,
    metrics: Mapping[str, Any],
    faces: Sequence[ExplainedFace],
    sections: Sequence[Section] = (),
) -> None:
    """Write a test's page, whole, and its plots as PNG files into the folder ``plots`` beside it.

    Args:
        path: The file.
        name: The run's name.
        metrics: The content of ``metrics.json``, with all that `explllm.metrics.evaluation.recognition_metrics` gives
            under ``test/``.
        faces: Explained faces to show.
        sections: Further parts, between the figures and the faces.
    """
    figures = {key.removeprefix("test/"): value for key, value in metrics.items() if key.startswith("test/")}
    plots = recognition_plots(figures)
    page = render_page(
        "report.html.jinja",
        name=name,
        metrics=metrics,
        figures=figures,
        headline=_headline(figures)[:3],
        further=_headline(figures)[3:],
        warning=single_class_warning(figures),
        notices=_notices(metrics, figures),
        plots=plots,
        faces=faces,
        sections=sections,
        published=PUBLISHED,
    )
    write_plots(path.parent / PLOTS, [*plots, *(plot for section in sections for plot in section.plots)])
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_page(template: str, **values: Any) -> str:
    """Fill in one of the package's templates.

    Args:
        template: Its file name.
        **values: What it names.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("explllm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "interval": _interval, "number": "{:,}".format, "percent": _percent}
    return environment.get_template(template).render(explllm=__version__, **values)


def _headline(figures: Mapping[str, Any]) -> list[MetricCard]:
    def shown(key: str, name: str, note: str = "") -> MetricCard:
        ends = figures.get(f"{key}_interval")
        return MetricCard(name, _figure(figures[key]), f"{_interval(ends)} (95%)" if ends else note, f"test/{key}")

    left_out = figures["auroc_left_out"]
    some = f"without {', '.join(left_out)}" if left_out and figures["auroc"] is not None else "one against the rest"
    found = [shown("accuracy", "accuracy"), shown("macro_recall", "macro recall"), shown("macro_f1", "macro F1")]
    if figures["with_probabilities"]:
        found += [
            shown("ece", "calibration error (ECE)", "0 is best"),
            shown("auroc", "AUROC", some),
            shown("nll", "negative log-likelihood", "nats; 0 is best"),
            shown("brier", "Brier score", "0 is best, 2 worst"),
        ]
    return found


def _notices(metrics: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """Say what must be known before the figures are read."""
    notices = [metrics["training_data_note"]] if metrics.get("training_data_note") else []
    if lost := len(figures.get("unreadable", ())):
        notices.append(f"{lost} more faces could not be read and do not count.")
    if figures["left_out"]:
        counts = ", ".join(f"{count:,} {name}" for name, count in figures["left_out"].items())
        notices.append(f"Left out, as the model does not answer with their expression: {counts}.")
    if figures["dropped_labels"]:
        notices.append(
            f"The model also knows {', '.join(figures['dropped_labels'])}, which was no possible answer here; its "
            "probability was shared out among the other expressions."
        )
    if figures["no_label"]:
        notices.append(f"{figures['no_label']:,} answers name no expression; they count as wrong.")
    if 0 < figures["with_probabilities"] < figures["count"]:
        notices.append(
            "Calibration, AUROC, log-likelihood and Brier score are of the "
            f"{figures['with_probabilities']:,} faces that have probabilities."
        )
    return notices


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
