import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from explllm.report.plots import DARK, LIGHT, draw_plot, recognition_plots, write_plots


@pytest.fixture(scope="module")
def metrics(drawn_table, made_up, metrics_of):
    return {key.removeprefix("test/"): value for key, value in metrics_of(made_up(drawn_table)).items()}


def texts(plot):
    """The words and numbers in a drawing, which are text in it."""
    found = ElementTree.fromstring(plot.light).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(entry.itertext()) for entry in found]


def test_plots_show_the_metrics(metrics):
    plots = {plot.name: plot for plot in recognition_plots(metrics)}
    assert list(plots) == ["confusion_matrix", "by_class", "reliability", "predictions"]
    drawn = texts(plots["confusion_matrix"])
    counts = [str(count) for row in metrics["confusion"] for count in row[:-1] if count]
    assert sorted(text for text in drawn if text.isdigit()) == sorted(counts)
    assert "no label" not in drawn
    assert f"ECE {metrics['ece']:.3f}" in texts(plots["reliability"])
    for name in metrics["labels"]:
        assert all(name in texts(plots[kind]) for kind in ("confusion_matrix", "by_class", "predictions"))
    shown = texts(plots["predictions"])
    for counts in (metrics["targets"], metrics["predictions"]):
        assert all(str(count) in shown for count in counts.values())


def test_bars_by_class_are_as_long_as_the_metrics(metrics):
    """Read back from the drawing: the widths of the bars of recall, in the classes' order."""
    [plot] = [plot for plot in recognition_plots(metrics) if plot.name == "by_class"]
    paths = re.findall(rb'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" [^>]*fill: ' + LIGHT.main.encode(), plot.light)
    widths = np.array([float(end) - float(start) for start, end in paths])[: len(metrics["labels"])]
    recall = np.array([metrics["recall"][name] or 0 for name in metrics["labels"]])
    assert widths / widths.max() == pytest.approx(recall / recall.max(), abs=1e-3)


def test_answers_without_a_label_and_without_probabilities(metrics):
    wordy = {**metrics, "no_label": 3, "reliability": None}
    plots = {plot.name: plot for plot in recognition_plots(wordy)}
    assert list(plots) == ["confusion_matrix", "by_class", "predictions"]
    assert "no label" in texts(plots["confusion_matrix"]) and "no label" in texts(plots["predictions"])


def test_light_dark_and_png(metrics, tmp_path):
    plots = recognition_plots(metrics)
    for plot in plots:
        assert LIGHT.text.encode() in plot.light and DARK.text.encode() in plot.dark
        assert LIGHT.text.encode() not in plot.dark
        assert Image.open(io.BytesIO(plot.png)).convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert [plot.light for plot in recognition_plots(metrics)] == [plot.light for plot in plots]
    write_plots(tmp_path / "plots", plots)
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == sorted(plot.name for plot in plots)


def test_drawing_changes_no_settings():
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_plot("one", "One", "A line.", (2, 2), lambda figure, theme: figure.subplots().plot([1, 2]))
    assert dict(matplotlib.rcParams) == before
