"""Figures and explained faces on the terminal."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.metrics.evaluation import single_class_warning

if TYPE_CHECKING:
    from explllm.models.generation import Recognition

_BARS = " ▁▂▃▄▅▆▇█"


def histogram_line(counts: Mapping[str, int]) -> str:
    """Draw a histogram of classes in one line.

    Args:
        counts: Count by class.

    Returns:
        For example ``Neutral █ 40  Happiness ▄ 20``.
    """
    highest = max(counts.values(), default=0)
    return "  ".join(
        f"{name} {_BARS[-(-count * (len(_BARS) - 1) // highest) if highest else 0]} {count}"
        for name, count in counts.items()
    )


def metrics_line(figures: Mapping[str, Any]) -> str:
    """Say in one line how well expressions are recognized.

    Args:
        figures: What `explllm.metrics.recognition.recognition_summary` gives.

    Returns:
        Accuracy, macro recall and the histogram of predictions.
    """
    return (
        f"accuracy {figures['accuracy']:.3f}, macro recall {figures['macro_recall']:.3f}, "
        f"predictions {histogram_line(figures['predictions'])}"
    )


def print_metrics(console: Console, metrics: Mapping[str, Any], stage: str = "test") -> None:
    """Print a test's headline figures, recall, F1 and predictions by class, and what must be known before all of them.

    Args:
        console: Where to.
        metrics: The content of ``metrics.json``.
        stage: The prefix of the figures there: ``test`` or ``val``.
    """
    figures = {key.removeprefix(f"{stage}/"): value for key, value in metrics.items() if key.startswith(f"{stage}/")}
    if warning := single_class_warning(figures):
        console.print(Panel(f"[bold]{warning}[/bold]", title="ONE CLASS ONLY", style="red"))
    console.print(
        f"[bold]{stage} accuracy {figures['accuracy']:.3f}[/bold], "
        f"macro recall {figures['macro_recall']:.3f}, on {figures['count']} faces"
    )
    console.print(_intervals(figures), highlight=False)
    if figures["with_probabilities"]:
        console.print(_probability_line(figures), highlight=False)
    if lost := len(figures["unreadable"]):
        console.print(f"[bold]{lost} more could not be read[/bold] and do not count; metrics.json names them")
    if figures["left_out"]:
        counts = ", ".join(f"{count} {name}" for name, count in figures["left_out"].items())
        console.print(f"[bold]left out[/bold], as the model does not answer with their expression: {counts}")
    if figures["no_label"]:
        console.print(f"[bold]{figures['no_label']} answers name no expression[/bold]; they count as wrong")
    table = Table("expression", "faces", "predicted", "recall", "F1", title="predictions by class")
    for name, count in figures["targets"].items():
        shown = ("-" if value is None else f"{value:.3f}" for value in (figures["recall"][name], figures["f1"][name]))
        table.add_row(name, str(count), str(figures["predictions"][name]), *shown)
    console.print(table)


def _intervals(figures: Mapping[str, Any]) -> str:
    said = ", ".join(
        f"{name.replace('_', ' ')} {figures[f'{name}_interval'][0]:.3f} to {figures[f'{name}_interval'][1]:.3f}"
        for name in ("accuracy", "macro_recall", "macro_f1")
    )
    return f"95% intervals: {said}"


def _probability_line(figures: Mapping[str, Any]) -> str:
    area = "-" if figures["auroc"] is None else f"{figures['auroc']:.3f}"
    return f"calibration error {figures['ece']:.3f}, negative log-likelihood {figures['nll']:.3f}, AUROC {area}"


def print_explained(
    console: Console,
    image: str | PathLike[str],
    expression: Expression | None,
    recognition: "Recognition",
    cot: ChainOfThought,
) -> None:
    """Print one explained face.

    Args:
        console: Where to.
        image: The image's path.
        expression: The true label, if it is known.
        recognition: What the model recognized.
        cot: What it wrote.
    """
    likely = sorted(recognition.probabilities.items(), key=lambda pair: -pair[1])[:3]
    said = ", ".join(f"{label} {probability:.1%}" for label, probability in likely)
    truth = "" if expression is None else f"  (labeled {expression})"
    said_title = f": {recognition.expression}{truth}"
    # A title that is too long loses its end, which is what was recognized: the path loses its beginning instead.
    room, path = max(console.width - len(said_title) - 8, 12), fspath(image)
    shown = path if len(path) <= room else f"…{path[1 - room :]}"
    title = f"{escape(shown)}{said_title}"
    console.print(Panel(f"{said}\n\n{escape(cot.text)}", title=title, title_align="left"))
