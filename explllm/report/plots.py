"""Plots of a test's metrics, drawn with matplotlib: SVG in light and dark for the page, and PNG."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explllm.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONTS = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Theme:
    """Colors of the plots on a light or dark page."""

    text: str
    faint: str
    """Grid, axes, empty cells."""
    paper: str
    """Color of a cell with share 0."""
    main: str
    second: str
    third: str
    wrong: str


LIGHT = Theme("#1f2933", "#d5dae1", "#ffffff", "#2a6f97", "#89b6d0", "#c3a46a", "#b5493a")
DARK = Theme("#e4e8ed", "#3c4653", "#1b222b", "#62a8d1", "#38647f", "#c9ad76", "#e07a68")


@dataclass(frozen=True)
class Plot:
    """A rendered plot."""

    name: str
    """File name without the extension."""
    title: str
    caption: str
    """What it shows and how to read it; also the alternative text."""
    light: bytes
    """SVG for light pages and for print."""
    dark: bytes
    """SVG for dark pages."""
    png: bytes
    """The light variant as PNG."""

    @property
    def light_url(self) -> str:
        """The light SVG as a data URL."""
        return _url(self.light)

    @property
    def dark_url(self) -> str:
        """The dark SVG as a data URL."""
        return _url(self.dark)


def draw_plot(
    name: str, title: str, caption: str, size: tuple[float, float], draw: Callable[["Figure", Theme], None]
) -> Plot:
    """Draw a plot in both themes.

    Args:
        name: File name without the extension.
        title: Heading on the page.
        caption: What it shows and how to read it.
        size: Width and height in inches.
        draw: Draws on an empty figure with the colors of a theme.

    Returns:
        The plot. The bytes are deterministic.
    """
    images: list[bytes] = []
    for theme, kind in ((LIGHT, "svg"), (DARK, "svg"), (LIGHT, "png")):
        with _style(theme, name):
            # Not pyplot, which keeps metrics and settings for the whole process.
            from matplotlib.figure import Figure

            figure = Figure(figsize=size, layout="constrained")
            draw(figure, theme)
            buffer = io.BytesIO()
            paper: dict[str, Any] = {"facecolor": "white", "dpi": 160} if kind == "png" else {"transparent": True}
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, metadata=metadata, **paper)
        images.append(buffer.getvalue())
    light, dark = (image.replace(b"'DejaVu Sans'", _FONTS.replace('"', "'").encode()) for image in images[:2])
    return Plot(name, title, caption, light, dark, images[2])


def write_plots(folder: Path, plots: list[Plot]) -> None:
    """Write plots as PNG files to a folder, which is created if it does not exist."""
    for plot in plots:
        with atomic_write(folder / f"{plot.name}.png") as temporary:
            temporary.write_bytes(plot.png)


def recognition_plots(metrics: Mapping[str, Any]) -> list[Plot]:
    """Draw the confusion matrix, metrics by class, the histogram of predictions and, if possible, the reliability.

    `metrics` are those of `explllm.metrics.evaluation.recognition_metrics`.
    """
    plots = [
        draw_plot(
            "confusion_matrix",
            "Confusion matrix",
            "Rows are the true expressions, columns the model's answers. A cell shows the number of faces; its shade "
            "shows the share of its row. The diagonal is recall.",
            (5.6, 5.0),
            lambda figure, theme: _confusion(figure.subplots(), metrics, theme),
        ),
        draw_plot(
            "by_class",
            "By class",
            "Recall: the share of faces with this label that the model recognizes. Precision: the share of answers "
            "with this label that are correct. F1: their harmonic mean. The dashed line is macro recall.",
            (5.6, 5.0),
            lambda figure, theme: _by_class(figure.subplots(), metrics, theme),
        ),
        draw_plot(
            "predictions",
            "Predictions",
            "How often each expression is the label, and how often it is the model's answer. A model that always gives "
            "the same answer shows up here.",
            (5.6, 3.9),
            lambda figure, theme: _predictions(figure.subplots(), metrics, theme),
        ),
    ]
    if metrics.get("reliability"):
        plots.insert(
            2,
            draw_plot(
                "reliability",
                "Reliability",
                "Share of correct answers by confidence. On the diagonal, confidence equals accuracy. Below: number of "
                "faces by confidence. ECE is the mean distance from the diagonal, weighted by faces.",
                (5.6, 3.9),
                lambda figure, theme: _reliability(figure, metrics, theme),
            ),
        )
    return plots


@contextmanager
def _style(theme: Theme, salt: str) -> Iterator[None]:
    import matplotlib

    # dict[Any, Any]: matplotlib types the keys as a literal union.
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "legend.frameon": False,
        # Text stays text: sharp, small and searchable.
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
    }
    with matplotlib.rc_context(settings):
        yield


def _confusion(axes: "Axes", metrics: Mapping[str, Any], theme: Theme) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    labels, counts = list(metrics["labels"]), [list(row) for row in metrics["confusion"]]
    columns = [*labels, "no label"]
    if not metrics["no_label"]:
        columns, counts = labels, [row[:-1] for row in counts]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    shades = LinearSegmentedColormap.from_list("shares", [theme.paper, theme.main])
    # pcolormesh draws cells as shapes, which stay sharp when scaled.
    axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors=theme.faint, linewidth=0.6)
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


def _by_class(axes: "Axes", metrics: Mapping[str, Any], theme: Theme) -> None:
    labels = list(metrics["labels"])
    kinds = (("recall", theme.main), ("precision", theme.second), ("f1", theme.third))
    for offset, (kind, color) in enumerate(kinds):
        values = [metrics[kind][name] or 0 for name in labels]
        positions = [index + (offset - 1) * 0.26 for index in range(len(labels))]
        axes.barh(positions, values, height=0.24, color=color, label="F1" if kind == "f1" else kind)
    axes.axvline(metrics["macro_recall"], color=theme.text, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1, handleheight=1)


def _predictions(axes: "Axes", metrics: Mapping[str, Any], theme: Theme) -> None:
    labels = list(metrics["labels"])
    true = [metrics["targets"][name] for name in labels]
    predicted = [metrics["predictions"][name] for name in labels]
    if metrics["no_label"]:
        labels, true, predicted = [*labels, "no label"], [*true, 0], [*predicted, metrics["no_label"]]
    for offset, (values, color, name) in enumerate(((true, theme.faint, "labels"), (predicted, theme.main, "answers"))):
        positions = [index + (offset - 0.5) * 0.4 for index in range(len(labels))]
        bars = axes.bar(positions, values, width=0.38, color=color, label=name)
        axes.bar_label(bars, fontsize=7, padding=1)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylabel("faces")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1, handleheight=1)


def _reliability(figure: "Figure", metrics: Mapping[str, Any], theme: Theme) -> None:
    curve = metrics["reliability"]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = len(curve["counts"])
    width, left = 1 / bins, [index / bins for index in range(bins)]
    filled = [index for index in range(bins) if curve["counts"][index]]
    upper.plot([0, 1], [0, 1], color=theme.text, linestyle=(0, (4, 3)), linewidth=1)
    accuracy, confidence = ([curve[name][index] for index in filled] for name in ("accuracy", "confidence"))
    upper.bar([left[index] for index in filled], accuracy, width=width * 0.94, align="edge", color=theme.second)
    upper.plot(confidence, accuracy, color=theme.main, marker="o", markersize=4, linewidth=1.5)
    upper.text(0.02, 0.95, f"ECE {metrics['ece']:.3f}", transform=upper.transAxes, va="top", fontweight="bold")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy")
    lower.bar(left, curve["counts"], width=width * 0.94, align="edge", color=theme.main)
    lower.set_ylabel("faces")
    lower.set_xlabel("confidence")
    for axes in (upper, lower):
        axes.grid(axis="y")
        axes.tick_params(length=0)


def _url(image: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(image).decode()
