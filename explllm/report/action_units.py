"""Metrics of an action unit test: terminal tables, a CSV file, and a plot by unit."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from explllm.core.action_units import FACS_CODES, with_facs
from explllm.core.console import print_table
from explllm.core.facs import FACS
from explllm.core.files import atomic_write
from explllm.metrics.au_regression import MEASURES
from explllm.report.plots import MAIN, SECOND, TEXT, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNDEFINED = "-"


def print_agreement(console: Console, metrics: Mapping[str, Any], stage: str = "test") -> None:
    """Print the values of `agreement_summary`: metrics by unit, means, and units with constant labels or estimates."""
    means = ", ".join(f"{title} {_format(metrics[name])}" for name, title in MEASURES.items())
    console.print(f"[bold]{stage} {means}[/bold], on {metrics['faces']} faces", highlight=False, soft_wrap=True)
    table = Table("action unit", title=f"by unit, {stage}")
    for title in ("faces", *MEASURES.values()):
        table.add_column(title, justify="right")
    for unit, row in metrics["by_unit"].items():
        table.add_row(with_facs(unit), str(row["faces"]), *(_format(row[name]) for name in MEASURES))
    table.add_section()
    table.add_row("mean", "", *(_format(metrics[name]) for name in MEASURES))
    print_table(console, table)
    if metrics["left_out"]:
        names = ", ".join(map(with_facs, metrics["left_out"]))
        console.print(f"no correlation, because the labels are constant: {names} (excluded from the means)")
    if metrics["constant_predictions"]:
        names = ", ".join(map(with_facs, metrics["constant_predictions"]))
        console.print(f"[bold]constant estimates[/bold], counted as a correlation of 0: {names}")


def print_facs(console: Console, metrics: Mapping[str, Any], stage: str = "test") -> None:
    """Print the values of `facs_summary`: F1 by unit; units without a FEAFA counterpart are marked as missing."""
    mean, all_units = metrics["mean_f1"], len(metrics["f1"])
    console.print(
        f"[bold]{stage} F1 {_format(mean)}[/bold], the mean over {len(metrics['mean_over'])} of {all_units} units, on "
        f"{metrics['faces']} faces",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("FACS unit", "FEAFA units", title=f"FACS units, {stage}")
    for title in ("active", "F1"):
        table.add_column(title, justify="right")
    for name, score in metrics["f1"].items():
        unit = FACS[int(name.removeprefix("AU"))]
        made_of = ", ".join(unit.feafa) or f"none: {unit.remark}"
        missing = name in metrics["missing"]
        table.add_row(
            f"{name} {unit.name}", made_of, str(metrics["active"][name]), "missing" if missing else _format(score)
        )
    print_table(console, table)
    if metrics["missing"]:
        console.print(
            f"the mean does not cover all {all_units} units: {', '.join(metrics['missing'])} cannot be estimated",
            soft_wrap=True,
        )


def write_agreement(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write the metrics by unit as CSV: unit, facs, faces, mae, icc, ccc, pearson; undefined values are empty."""
    table = pd.DataFrame.from_dict(metrics["by_unit"], orient="index", columns=["faces", *MEASURES])
    table.insert(0, "facs", [FACS_CODES[name] for name in table.index])
    with atomic_write(path) as partial:
        table.to_csv(partial, index_label="unit")


def agreement_plot(metrics: Mapping[str, Any]) -> Plot:
    """Return a plot of Pearson's correlation and CCC by unit, from the values of `agreement_summary`."""
    return Plot(
        "action_units",
        "Action units",
        "Agreement between estimates and labels by unit: Pearson's correlation, and Lin's concordance (CCC), which "
        "also penalizes a wrong scale or offset. The dashed line is the mean of Pearson's correlation. A unit without "
        "bars has constant labels.",
        (5.6, 6.4),
        lambda figure: _bars(figure.subplots(), metrics),
    )


def _bars(axes: "Axes", metrics: Mapping[str, Any]) -> None:
    names = list(metrics["by_unit"])
    for offset, name, color in ((-0.2, "pearson", MAIN), (0.2, "ccc", SECOND)):
        values = [metrics["by_unit"][unit][name] or 0.0 for unit in names]
        axes.barh([index + offset for index in range(len(names))], values, 0.4, color=color, label=MEASURES[name])
    if metrics["pearson"] is not None:
        axes.axvline(metrics["pearson"], color=TEXT, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_yticks(range(len(names)), [with_facs(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(min([0.0, *(row["pearson"] or 0.0 for row in metrics["by_unit"].values())]), 1)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1, handleheight=1)


def _format(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}"
