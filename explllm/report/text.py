"""Figures and explained faces on the terminal."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.expressions import Expression

if TYPE_CHECKING:
    from explllm.models.recognition import Recognition

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


def figures_line(figures: Mapping[str, Any]) -> str:
    """Say in one line how well expressions are recognised.

    Args:
        figures: What `explllm.metrics.recognition.recognition_summary` gives.

    Returns:
        Accuracy, macro recall and the histogram of predictions.
    """
    return (
        f"accuracy {figures['accuracy']:.3f}, macro recall {figures['macro_recall']:.3f}, "
        f"predictions {histogram_line(figures['predictions'])}"
    )


def print_figures(console: Console, metrics: Mapping[str, Any], stage: str = "test") -> None:
    """Print a test's headline figures, and recall and predictions by class.

    Args:
        console: Where to.
        metrics: The content of ``metrics.json``.
        stage: The prefix of the figures there: ``test`` or ``val``.
    """
    console.print(
        f"[bold]{stage} accuracy {metrics[f'{stage}/accuracy']:.3f}[/bold], "
        f"macro recall {metrics[f'{stage}/macro_recall']:.3f}, on {metrics[f'{stage}/count']} faces"
    )
    if lost := len(metrics.get(f"{stage}/unreadable", ())):
        console.print(f"[bold]{lost} more could not be read[/bold] and do not count; metrics.json names them")
    table = Table("expression", "faces", "predicted", "recall", title="predictions by class")
    for name, count in metrics[f"{stage}/targets"].items():
        recall = metrics[f"{stage}/recall"][name]
        table.add_row(
            name, str(count), str(metrics[f"{stage}/predictions"][name]), "-" if recall is None else f"{recall:.3f}"
        )
    console.print(table)


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
        recognition: What the model recognised.
        cot: What it wrote.
    """
    likely = sorted(recognition.probabilities.items(), key=lambda pair: -pair[1])[:3]
    said = ", ".join(f"{label} {probability:.1%}" for label, probability in likely)
    truth = "" if expression is None else f"  (labelled {expression})"
    title = f"{escape(fspath(image))}: {recognition.expression}{truth}"
    console.print(Panel(f"{said}\n\n{escape(cot.text)}", title=title, title_align="left"))
