import io

import pytest
import torch
from rich.console import Console

from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.expressions import Expression
from explllm.metrics.recognition import RecognitionMetrics
from explllm.models.recognition import Recognition
from explllm.report.text import figures_line, histogram_line, print_explained, print_figures


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def printed(console):
    return console.file.getvalue()


def figures(stage=""):
    metric = RecognitionMetrics([Expression.FEAR, Expression.ANGER, Expression.SADNESS])
    metric.update(torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]]), torch.tensor([0, 1, 1]))
    return {f"{stage}{name}": value for name, value in metric.compute().items()}


def test_histogram():
    assert (
        histogram_line({"Fear": 40, "Anger": 20, "Sadness": 1, "Disgust": 0})
        == "Fear █ 40  Anger ▄ 20  Sadness ▁ 1  Disgust   0"
    )
    assert histogram_line({"Fear": 0}) == "Fear   0"
    assert histogram_line({}) == ""


def test_figures_in_one_line():
    assert figures_line(figures()) == "accuracy 0.667, macro recall 0.750, predictions Fear █ 2  Anger ▄ 1  Sadness   0"


def test_figures_as_a_table(console):
    print_figures(console, {**figures("test/"), "test/unreadable": []})
    lines = [line.split() for line in printed(console).splitlines()]
    assert " ".join(lines[0]) == "test accuracy 0.667, macro recall 0.750, on 3 faces"
    rows = {words[1]: words[3::2] for words in lines if words and words[0] == "│"}
    assert rows["Fear"] == ["1", "2", "1.000"] and rows["Anger"] == ["2", "1", "0.500"]
    assert rows["Sadness"] == ["0", "0", "-"]  # no recall where there is no face
    assert "could not be read" not in printed(console)


def test_unreadable_faces_are_said(console):
    print_figures(console, {**figures("val/"), "val/unreadable": ["a", "b"]}, "val")
    assert "val accuracy 0.667" in printed(console)
    assert "2 more could not be read and do not count" in printed(console)


def test_an_explained_face(console):
    found = Recognition.of(
        [Expression.FEAR, Expression.ANGER, Expression.SADNESS, Expression.DISGUST], [0.1, 0.6, 0.25, 0.05]
    )
    cot = ChainOfThought.of("The brow is [low].", "It looks tense.", "It is anger.")
    print_explained(console, "faces/[1].png", Expression.FEAR, found, cot)
    said = " ".join(printed(console).replace("│", " ").split())
    assert "faces/[1].png: Anger (labelled Fear)" in said
    assert "Anger 60.0%, Sadness 25.0%, Fear 10.0%" in said and "Disgust" not in said
    assert "The brow is [low]." in said  # brackets are text, not markup
    print_explained(console, "face.png", None, found, cot)
    assert printed(console).count("labelled") == 1
