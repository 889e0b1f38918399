"""Plots of a test's metrics, drawn with matplotlib: inline SVG in the page's colors, and PNG."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explllm.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

TEXT, GRID, PAPER = "#1f2933", "#d9dee5", "#ffffff"
MAIN, SECOND, THIRD = "#2a6f97", "#89b6d0", "#c3a46a"
_VARIABLES = {TEXT: "text", GRID: "line", PAPER: "card", MAIN: "main", SECOND: "second"}
"""Colors of the plots, and the CSS variables of the page that replace them in the SVG."""


@dataclass(frozen=True)
class Plot:
    """A plot. It is rendered on access; the bytes are deterministic."""

    name: str
    """File name without the extension."""
    title: str
    """Heading on the page."""
    caption: str
    """What the plot shows and how to read it; also the alternative text."""
    size: tuple[float, float]
    """Width and height in inches."""
    draw: Callable[["Figure"], None]
    """Draws on an empty figure."""

    @property
    def svg(self) -> str:
        """An ``<svg>`` element that follows the page's colors, light or dark."""
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        svg = self._render("svg", transparent=True, metadata=metadata).decode()
        svg = re.sub(r"^.*?(?=<svg)|<defs>\s*<style.*?</defs>|<!--.*?-->", "", svg, flags=re.DOTALL)
        # Keep only ids that are referenced; the others would be duplicated across the plots of a page.
        used = set(re.findall(r"#([\w-]+)", svg))
        svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
        svg = re.sub(r' (?:width|height)="[\d.]+pt"| xmlns(?::\w+)?="[^"]*"', "", svg)
        for color, variable in _VARIABLES.items():
            svg = svg.replace(color, f"var(--{variable})")
        return svg.replace("'DejaVu Sans'", _FONTS).strip()

    @property
    def png(self) -> bytes:
        """The plot as a PNG file."""
        return self._render("png", facecolor="white", dpi=160, metadata={"Software": None})

    def _render(self, kind: str, **options: Any) -> bytes:
        with _style(self.name):
            # Avoid pyplot, which keeps figures and settings for the whole process.
            from matplotlib.figure import Figure

            figure, buffer = Figure(figsize=self.size, layout="constrained"), io.BytesIO()
            self.draw(figure)
            figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def write_plots(folder: Path, plots: list[Plot]) -> None:
    """Write plots as PNG files to a folder, which is created if it does not exist."""
    for plot in plots:
        with atomic_write(folder / f"{plot.name}.png") as temporary:
            temporary.write_bytes(plot.png)


def recognition_plots(metrics: Mapping[str, Any]) -> list[Plot]:
    """Return plots of the confusion matrix, the metrics by class, the reliability (if known), and the predictions.

    `metrics` is the result of `explllm.metrics.evaluation.recognition_metrics`.
    """
    plots = [
        Plot(
            "confusion_matrix",
            "Confusion matrix",
            "Rows are the true expressions, columns the model's answers. A cell shows the number of faces; its shade "
            "shows the share of its row, which is the recall on the diagonal.",
            (5.6, 5.0),
            lambda figure: _confusion(figure.subplots(), metrics),
        ),
        Plot(
            "by_class",
            "By class",
            "Recall: the share of faces with this label that the model recognizes. Precision: the share of answers "
            "with this label that are correct. F1: their harmonic mean. The dashed line is macro recall.",
            (5.6, 5.0),
            lambda figure: _by_class(figure.subplots(), metrics),
        ),
        Plot(
            "predictions",
            "Predictions",
            "How often each expression is the label, and how often it is the model's answer. A model that always gives "
            "the same answer shows up here.",
            (4.2, 4.2),
            lambda figure: _predictions(figure.subplots(), metrics),
        ),
    ]
    if metrics.get("reliability"):
        plots.insert(
            2,
            Plot(
                "reliability",
                "Reliability",
                f"{calibration_sentence(metrics)} Bars: share of correct answers by confidence; on the diagonal, "
                "confidence equals accuracy. Below: number of faces by confidence.",
                (4.2, 4.2),
                lambda figure: _reliability(figure, metrics),
            ),
        )
    return plots


def calibration_sentence(metrics: Mapping[str, Any]) -> str:
    """Return the expected calibration error with its meaning, and whether the model is over- or underconfident."""
    curve, ece = metrics["reliability"], metrics["ece"]
    total = max(sum(curve["counts"]), 1)
    confidence, accuracy = (
        sum(count * (mean or 0) for count, mean in zip(curve["counts"], curve[name], strict=True)) / total
        for name in ("confidence", "accuracy")
    )
    gap = confidence - accuracy
    verdict = f"{'over' if gap > 0 else 'under'}confident" if abs(gap) >= 0.01 else "neither over- nor underconfident"
    return (
        f"Expected calibration error (ECE) {ece:.3f}: confidence and accuracy differ by {100 * ece:.1f} points on "
        f"average. Overall the model is {verdict} (mean confidence {confidence:.3f}, accuracy {accuracy:.3f})."
    )


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib

    # dict[Any, Any]: matplotlib types the keys as a literal union.
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": GRID,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": TEXT,
        "ytick.labelcolor": TEXT,
        "legend.frameon": False,
        # Keep text as text instead of outlines, so that it stays sharp, small and searchable.
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
    }
    with matplotlib.rc_context(settings):
        yield


def _confusion(axes: "Axes", metrics: Mapping[str, Any]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    labels, counts = list(metrics["labels"]), [list(row) for row in metrics["confusion"]]
    columns = [*labels, "no label"]
    if not metrics["no_label"]:
        columns, counts = labels, [row[:-1] for row in counts]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    shades = LinearSegmentedColormap.from_list("shares", [PAPER, MAIN])
    # pcolormesh draws cells as shapes, which stay sharp when scaled.
    axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors=GRID, linewidth=0.6)
    axes.invert_yaxis()
    dark_ink, light_ink = "#14202b", "#ffffff"
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            red, green, blue = to_rgb(shades(shares[row][column]))
            ink = dark_ink if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else light_ink
            weight = "bold" if row == column and count else "normal"
            text = str(count) if count else "·"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8, fontweight=weight)
    axes.set_xticks(
        [index + 0.5 for index in range(len(columns))], columns, rotation=45, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks([index + 0.5 for index in range(len(labels))], labels)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.set_xlabel("answer")
    axes.set_ylabel("true expression")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _by_class(axes: "Axes", metrics: Mapping[str, Any]) -> None:
    labels = list(metrics["labels"])
    kinds = (("recall", MAIN), ("precision", SECOND), ("f1", THIRD))
    for offset, (kind, color) in enumerate(kinds):
        values = [metrics[kind][name] or 0 for name in labels]
        positions = [index + (offset - 1) * 0.26 for index in range(len(labels))]
        axes.barh(positions, values, height=0.24, color=color, label="F1" if kind == "f1" else kind)
    axes.axvline(metrics["macro_recall"], color=TEXT, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1, handleheight=1)


def _predictions(axes: "Axes", metrics: Mapping[str, Any]) -> None:
    labels = list(metrics["labels"])
    true = [metrics["targets"][name] for name in labels]
    predicted = [metrics["predictions"][name] for name in labels]
    if metrics["no_label"]:
        labels, true, predicted = [*labels, "no label"], [*true, 0], [*predicted, metrics["no_label"]]
    for offset, (values, color, name) in enumerate(((true, SECOND, "labels"), (predicted, MAIN, "answers"))):
        positions = [index + (offset - 0.5) * 0.4 for index in range(len(labels))]
        bars = axes.barh(positions, values, height=0.38, color=color, label=name)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("faces")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1, handleheight=1)


def _reliability(figure: "Figure", metrics: Mapping[str, Any]) -> None:
    curve = metrics["reliability"]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = len(curve["counts"])
    width, left = 1 / bins, [index / bins for index in range(bins)]
    filled = [index for index in range(bins) if curve["counts"][index]]
    upper.plot([0, 1], [0, 1], color=TEXT, linestyle=(0, (4, 3)), linewidth=1)
    accuracy, confidence = ([curve[name][index] for index in filled] for name in ("accuracy", "confidence"))
    upper.bar([left[index] for index in filled], accuracy, width=width * 0.94, align="edge", color=SECOND)
    upper.plot(confidence, accuracy, color=MAIN, marker="o", markersize=4, linewidth=1.5)
    upper.text(0.02, 0.95, f"ECE {metrics['ece']:.3f}", transform=upper.transAxes, va="top", fontweight="bold")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy")
    lower.bar(left, curve["counts"], width=width * 0.94, align="edge", color=MAIN)
    lower.set_ylabel("faces")
    lower.set_xlabel("confidence")
    for axes in (upper, lower):
        axes.grid(axis="y")
        axes.tick_params(length=0)
