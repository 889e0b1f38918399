import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from explllm.report.plots import MAIN, TEXT, Plot, calibration_sentence, recognition_plots, write_plots


@pytest.fixture(scope="module")
def metrics(drawn_table, made_up, metrics_of):
    return {key.removeprefix("test/"): value for key, value in metrics_of(made_up(drawn_table)).items()}


def texts(plot):
    """The words and numbers in a drawing, which are text in it."""
    found = ElementTree.fromstring(plot.svg.replace("xlink:href", "href")).iter("text")
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
    paths = re.findall(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" [^>]*fill: var\(--main\)', plot.svg)
    widths = np.array([float(end) - float(start) for start, end in paths])[: len(metrics["labels"])]
    recall = np.array([metrics["recall"][name] or 0 for name in metrics["labels"]])
    assert widths / widths.max() == pytest.approx(recall / recall.max(), abs=1e-3)


def test_answers_without_a_label_and_without_probabilities(metrics):
    wordy = {**metrics, "no_label": 3, "reliability": None}
    plots = {plot.name: plot for plot in recognition_plots(wordy)}
    assert list(plots) == ["confusion_matrix", "by_class", "predictions"]
    assert "no label" in texts(plots["confusion_matrix"]) and "no label" in texts(plots["predictions"])


def test_a_plot_takes_the_colors_of_its_page(metrics, tmp_path):
    plots = recognition_plots(metrics)
    rendered = [plot.svg for plot in plots]
    for svg in rendered:
        assert svg.startswith("<svg") and "var(--text)" in svg
        assert TEXT not in svg and MAIN not in svg
        # In one page, nothing of one plot refers to another, or styles it.
        names = re.findall(r'\bid="([^"]+)"', svg)
        assert len(set(names)) == len(names) and "<style" not in svg
        assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg)) <= set(names)
        assert not any(name in other for name in names for other in rendered if other is not svg)
    assert [plot.svg for plot in recognition_plots(metrics)] == rendered
    write_plots(tmp_path / "plots", plots)
    for path in (tmp_path / "plots").iterdir():
        assert Image.open(path).convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == sorted(plot.name for plot in plots)


def test_calibration_in_words():
    curve = {"counts": [0, 3, 1], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.4, 1.0]}
    assert calibration_sentence({"reliability": curve, "ece": 0.1}) == (
        "Expected calibration error (ECE) 0.100: confidence and accuracy differ by 10.0 points on average. Overall the "
        "model is overconfident (mean confidence 0.600, accuracy 0.550)."
    )
    curve["accuracy"] = [None, 0.6, 1.0]
    assert "Overall the model is underconfident (mean confidence 0.600, accuracy 0.700)" in calibration_sentence(
        {"reliability": curve, "ece": 0.1}
    )


def test_drawing_changes_no_settings():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot = Plot("one", "One", "A line.", (2, 2), lambda figure: figure.subplots().plot([1, 2]))
    assert plot.svg and plot.png
    assert dict(matplotlib.rcParams) == before
