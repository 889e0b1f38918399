"""A plot of the expressions in a video over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explllm.report.plots import Plot

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def timeline_plot(table: pd.DataFrame) -> Plot:
    """Return an area plot of the probabilities over time; a gap means that no face was found.

    Args:
        table: A row per frame: ``seconds``, ``expression`` (None without a face), and ``p_NAME`` for each class.
    """
    columns = [column for column in table.columns if column.startswith("p_")]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shares = table[columns].fillna(0).to_numpy(float).T
        labels = [column.removeprefix("p_") for column in columns]
        axes.stackplot(table["seconds"].to_numpy(float), shares, labels=labels, step="mid")
        axes.set(xlabel="seconds", ylabel="probability", ylim=(0, 1))
        axes.margins(x=0)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    caption = "Probability of each expression over time. A gap means that no face was found."
    return Plot("timeline", "Expressions over time", caption, (10, 3), draw)
