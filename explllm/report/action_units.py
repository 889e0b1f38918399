"""Figures of a test of action units: tables on the terminal, a CSV file, a picture by unit."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from explllm.core.facs import FACS
from explllm.core.files import atomic_write
from explllm.metrics.au_regression import MEASURES
from explllm.report.plots import Plot, Theme, draw_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNDEFINED = "-"


def print_agreement(console: Console, figures: Mapping[str, Any], stage: str = "test") -> None:
    """Print the figures of intensities by unit, their means, and what does not count in these.

    Args:
        console: Where to.
        figures: What `explllm.metrics.au_regression.agreement_summary` gives.
        stage: What was done, for the headline: ``test`` or ``val``.
    """
    means = ", ".join(f"{title} {_shown(figures[name])}" for name, title in MEASURES.items())
    console.print(f"[bold]{stage} {means}[/bold], on {figures['faces']} faces", highlight=False, soft_wrap=True)
    table = Table("action unit", title=f"by unit, {stage}")
    for title in ("faces", *MEASURES.values()):
        table.add_column(title, justify="right")
    for unit, row in figures["by_unit"].items():
        table.add_row(unit, str(row["faces"]), *(_shown(row[name]) for name in MEASURES))
    table.add_section()
    table.add_row("mean", "", *(_shown(figures[name]) for name in MEASURES))
    console.print(table)
    if figures["left_out"]:
        names = ", ".join(figures["left_out"])
        console.print(f"no correlation, as the labels never change: {names}; they count in no mean of one")
    if figures["constant_predictions"]:
        names = ", ".join(figures["constant_predictions"])
        console.print(f"[bold]the estimates never change[/bold], which counts as a correlation of 0: {names}")


def print_facs(console: Console, figures: Mapping[str, Any], stage: str = "test") -> None:
    """Print F1 by FACS unit; units that FEAFA does not have are said to be missing.

    Args:
        console: Where to.
        figures: What `explllm.metrics.facs.facs_summary` gives.
        stage: What was done, for the headline.
    """
    mean, all_units = figures["mean_f1"], len(figures["f1"])
    console.print(
        f"[bold]{stage} F1 {_shown(mean)}[/bold], the mean over {len(figures['mean_over'])} of {all_units} units, on "
        f"{figures['faces']} faces",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("FACS unit", "of FEAFA's", title=f"FACS units, {stage}")
    for title in ("active", "F1"):
        table.add_column(title, justify="right")
    for name, score in figures["f1"].items():
        unit = FACS[int(name.removeprefix("AU"))]
        made_of = ", ".join(unit.feafa) or f"none: {unit.remark}"
        missing = name in figures["missing"]
        table.add_row(
            f"{name} {unit.name}", made_of, str(figures["active"][name]), "missing" if missing else _shown(score)
        )
    console.print(table)
    if figures["missing"]:
        console.print(
            f"the mean is no figure for all {all_units} units: {', '.join(figures['missing'])} cannot be estimated",
            soft_wrap=True,
        )


def write_agreement(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures by unit as CSV: unit, faces, mae, icc, ccc, pearson; empty where not defined.

    Args:
        path: The file.
        figures: What `explllm.metrics.au_regression.agreement_summary` gives.
    """
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["unit", "faces", *MEASURES])
        for unit, row in figures["by_unit"].items():
            writer.writerow([unit, row["faces"], *("" if row[name] is None else row[name] for name in MEASURES)])


def agreement_plot(figures: Mapping[str, Any]) -> Plot:
    """Draw Pearson's correlation and CCC by unit.

    Args:
        figures: What `explllm.metrics.au_regression.agreement_summary` gives.

    Returns:
        The plot.
    """
    return draw_plot(
        "action_units",
        "Action units",
        "How the estimates go with the labels, unit by unit: Pearson's correlation, and Lin's concordance (CCC), which "
        "also counts a wrong scale or offset. The dashed line is the mean of Pearson's correlation. A unit without "
        "bars has labels that never change.",
        (5.6, 6.4),
        lambda figure, theme: _bars(figure.subplots(), figures, theme),
    )


def _bars(axes: "Axes", figures: Mapping[str, Any], theme: Theme) -> None:
    names = list(figures["by_unit"])
    for offset, name, color in ((-0.2, "pearson", theme.main), (0.2, "ccc", theme.second)):
        values = [figures["by_unit"][unit][name] or 0.0 for unit in names]
        axes.barh([place + offset for place in range(len(names))], values, 0.4, color=color, label=MEASURES[name])
    if figures["pearson"] is not None:
        axes.axvline(figures["pearson"], color=theme.text, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(min([0.0, *(row["pearson"] or 0.0 for row in figures["by_unit"].values())]), 1)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1, handleheight=1)


def _shown(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}"
