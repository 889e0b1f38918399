"""Metrics and explained faces on the terminal."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from explllm.core.console import print_table
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.review import MARKS, Review
from explllm.report.explained import Recognized, most_likely

_BARS = " ▁▂▃▄▅▆▇█"


def histogram_line(counts: Mapping[str, int]) -> str:
    """Return a one-line histogram of the number of faces by class, such as ``Neutral █ 40  Happiness ▄ 20``."""
    highest = max(counts.values(), default=0)
    return "  ".join(
        f"{name} {_BARS[-(-count * (len(_BARS) - 1) // highest) if highest else 0]} {count}"
        for name, count in counts.items()
    )


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """Format the values of `recognition_summary` in one line: accuracy, macro recall, histogram of predictions."""
    return (
        f"accuracy {metrics['accuracy']:.3f}, macro recall {metrics['macro_recall']:.3f}, "
        f"predictions {histogram_line(metrics['predictions'])}"
    )


def print_metrics(console: Console, written: Mapping[str, Any], stage: str = "test") -> None:
    """Print the metrics of a test: warnings, headline, then recall, F1 and predictions by class.

    `written` is the content of ``metrics.json``, and `stage` is the prefix of the metrics in it: ``test`` or ``val``.
    """
    # Deferred import: `print_explained` does not need pandas or torchmetrics.
    from explllm.metrics.evaluation import single_class_warning, training_faces_warning

    metrics = {key.removeprefix(f"{stage}/"): value for key, value in written.items() if key.startswith(f"{stage}/")}
    if warning := single_class_warning(metrics):
        console.print(Panel(f"[bold]{warning}[/bold]", title="ONE CLASS ONLY", style="red"))
    if warning := training_faces_warning(metrics):
        console.print(Panel(f"[bold]{warning}[/bold]", title="TRAINING FACES", style="red"))
    console.print(
        f"[bold]{stage} accuracy {metrics['accuracy']:.3f}[/bold], "
        f"macro recall {metrics['macro_recall']:.3f}, on {metrics['count']} faces"
    )
    console.print(_intervals(metrics), highlight=False)
    if metrics["with_probabilities"]:
        console.print(_probability_line(metrics), highlight=False)
    if (gain := metrics.get("cot/grounding_gain")) is not None:
        low, high = metrics["cot/grounding_gain_interval"]
        count = metrics["cot/grounding_gain_faces"]
        console.print(f"grounding gain {gain:.3f} ({low:.3f} to {high:.3f}), on {count} explanations", highlight=False)
    if unreadable := len(metrics["unreadable"]):
        console.print(f"[bold]{unreadable} more faces could not be read[/bold]; metrics.json lists them")
    if metrics["left_out"]:
        counts = ", ".join(f"{count} {name}" for name, count in metrics["left_out"].items())
        console.print(f"[bold]left out[/bold], because the model does not know their expression: {counts}")
    if metrics["no_label"]:
        console.print(f"[bold]{metrics['no_label']} answers name no expression[/bold]; they count as wrong")
    table = Table("expression", "faces", "predicted", "recall", "F1", title="predictions by class")
    for name, count in metrics["targets"].items():
        cells = ("-" if value is None else f"{value:.3f}" for value in (metrics["recall"][name], metrics["f1"][name]))
        table.add_row(name, str(count), str(metrics["predictions"][name]), *cells)
    print_table(console, table)


def _intervals(metrics: Mapping[str, Any]) -> str:
    intervals = ", ".join(
        f"{name.replace('_', ' ')} {metrics[f'{name}_interval'][0]:.3f} to {metrics[f'{name}_interval'][1]:.3f}"
        for name in ("accuracy", "macro_recall", "macro_f1")
    )
    return f"95% intervals: {intervals}"


def _probability_line(metrics: Mapping[str, Any]) -> str:
    auroc = "-" if metrics["auroc"] is None else f"{metrics['auroc']:.3f}"
    return f"calibration error {metrics['ece']:.3f}, negative log-likelihood {metrics['nll']:.3f}, AUROC {auroc}"


def print_explained(
    console: Console,
    image: str | PathLike[str],
    expression: Expression | None,
    recognition: Recognized,
    cot: ChainOfThought | None,
    training_data_note: str | None = None,
) -> None:
    """Print one face: a panel with its explanation or, if `cot` is None, one line with the most likely expressions.

    The panel's title shows the true label, if known, and warns if the model was trained on drawn faces.
    """
    likely = ", ".join(f"{label} {probability:.1%}" for label, probability in most_likely(recognition))
    label = "" if expression is None else f"  (labeled {expression})"
    if cot is None:
        console.print(f"{escape(fspath(image))}: {likely}", highlight=False, soft_wrap=True)
        return
    caveat = "  (model trained on drawn faces)" if "drawn" in (training_data_note or "") else ""
    result = f": {recognition.expression}{label}{caveat}"
    # rich truncates the end of a long title, which holds the result: truncate the start of the path instead.
    room, path = max(console.width - len(result) - 8, 12), fspath(image)
    shortened = path if len(path) <= room else f"…{path[1 - room :]}"
    console.print(Panel(f"{likely}\n\n{escape(cot.text)}", title=f"{escape(shortened)}{result}", title_align="left"))


def print_review(console: Console, review: Review | None, source: str | None, warnings: Sequence[str]) -> None:
    """Print the review of an explanation: a summary, the claims by status with a mark, and warnings.

    `source` is the estimator that measured the action units; without one, only the warnings are printed.
    """
    if review is not None and source is not None:
        console.print(f"{review.summary} (action units by {escape(source)})", highlight=False)
        for status, phrases in review.phrases.items():
            console.print(f"  {MARKS[status]} {status}: {phrases}", style=_STYLES[status], highlight=False)
    for warning in warnings:
        console.print(f"[bold]Warning:[/bold] {escape(warning)}", highlight=False)


_STYLES = {"agrees": "green", "contradicts": "red", "not measured": "dim"}
