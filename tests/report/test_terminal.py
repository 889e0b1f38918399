import io

import pandas as pd
import pytest
import torch
from rich.console import Console
from rich.table import Table

from explllm.core.console import print_table
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.review import review_explanation
from explllm.metrics.answers import Answers
from explllm.metrics.evaluation import recognition_metrics
from explllm.metrics.recognition import RecognitionMetrics
from explllm.models.generation import Recognition
from explllm.report.terminal import histogram_line, metrics_line, print_explained, print_metrics, print_review


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def printed(console):
    return console.file.getvalue()


LABELS = (Expression.FEAR, Expression.ANGER, Expression.SADNESS)
SHARES = [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]]


def metrics():
    metric = RecognitionMetrics(LABELS)
    metric.update(torch.tensor(SHARES), torch.tensor([0, 1, 1]))
    return metric.compute()


def metrics_with(stage="test/", truth=("Fear", "Anger", "Anger"), predicted=("Fear", "Fear", "Anger"), **more):
    table = pd.DataFrame(SHARES, columns=[f"p_{label}" for label in LABELS])
    table = table.assign(expression=list(truth), predicted=list(predicted))
    held = {**recognition_metrics(Answers.from_table(table)), "unreadable": [], **more}
    return {f"{stage}{name}": value for name, value in held.items()}


def test_histogram():
    assert (
        histogram_line({"Fear": 40, "Anger": 20, "Sadness": 1, "Disgust": 0})
        == "Fear █ 40  Anger ▄ 20  Sadness ▁ 1  Disgust   0"
    )
    assert histogram_line({"Fear": 0}) == "Fear   0"
    assert histogram_line({}) == ""


def test_metrics_in_one_line():
    assert metrics_line(metrics()) == "accuracy 0.667, macro recall 0.750, predictions Fear █ 2  Anger ▄ 1  Sadness   0"


def test_metrics_as_a_table(console):
    print_metrics(console, metrics_with())
    lines = [line.split() for line in printed(console).splitlines()]
    assert " ".join(lines[0]) == "test accuracy 0.667, macro recall 0.750, on 3 faces"
    rows = {words[1]: words[3::2] for words in lines if words and words[0] == "│"}
    assert rows["Fear"] == ["1", "2", "1.000", "0.667"] and rows["Anger"] == ["2", "1", "0.500", "0.667"]
    assert rows["Sadness"] == ["0", "0", "-", "-"]  # no recall where there is no face
    for words in ("could not be read", "ONE CLASS", "left out", "name no expression", "grounding gain"):
        assert words not in printed(console)
    # Confidences 0.9 (right), 0.8 (wrong), 0.9 (right): gaps of 0.1 and 0.8.
    assert "95% intervals: accuracy 0.000 to 1.000" in printed(console)
    assert "calibration error 0.333" in printed(console)


def test_the_grounding_gain_of_a_test(console):
    gain = {"cot/grounding_gain": 0.031, "cot/grounding_gain_interval": [-0.01, 0.07], "cot/grounding_gain_faces": 16}
    print_metrics(console, metrics_with(**gain))
    assert "grounding gain 0.031 (-0.010 to 0.070), on 16 explanations" in printed(console)


def test_what_does_not_count_is_said(console):
    more = {"unreadable": ["a", "b"], "left_out": {"Contempt": 5}}
    print_metrics(console, metrics_with("val/", predicted=("Fear", "unclear", "Anger"), **more), "val")
    said = " ".join(printed(console).split())
    assert "val accuracy 0.667" in said
    assert "2 more faces could not be read" in said
    assert "left out, because the model does not know their expression: 5 Contempt" in said
    assert "1 answers name no expression; they count as wrong" in said


def test_a_constant_predictor_is_called_one_first(console):
    print_metrics(console, metrics_with(predicted=("Fear",) * 3))
    said = " ".join(printed(console).replace("│", " ").split())
    assert said.index("ONE CLASS ONLY") < said.index("predicts Fear for every face") < said.index("test accuracy 0.333")


def test_an_explained_face(console):
    found = Recognition.of(
        [Expression.FEAR, Expression.ANGER, Expression.SADNESS, Expression.DISGUST], [0.1, 0.6, 0.25, 0.05]
    )
    cot = ChainOfThought.from_sections("The brow is [low].", "It looks tense.", "It is anger.")
    print_explained(console, "faces/[1].png", Expression.FEAR, found, cot)
    said = " ".join(printed(console).replace("│", " ").split())
    assert "faces/[1].png: Anger (labeled Fear)" in said
    assert "Anger 60.0%, Sadness 25.0%, Fear 10.0%" in said and "Disgust" not in said
    assert "The brow is [low]." in said  # brackets are text, not markup
    print_explained(console, "face.png", None, found, cot)
    assert printed(console).count("labeled") == 1


def test_a_long_path_keeps_its_end_and_the_expression(console):
    found = Recognition.of([Expression.SURPRISE, Expression.FEAR], [0.7, 0.3])
    print_explained(console, "/a" * 60 + "/face_17.jpg", Expression.FEAR, found, ChainOfThought.parse("Words."))
    first = printed(console).splitlines()[0]
    assert "face_17.jpg: Surprise  (labeled Fear)" in first
    assert len(first) == 100


def test_a_review(console):
    cot = ChainOfThought.from_sections("The jaw is dropped. The nose is wrinkled.", "It is calm.", "Fear.")
    units = [0.62 if place == 8 else None if place == 0 else 0.0 for place in range(24)]
    review = review_explanation(cot, Expression.SURPRISE, units)
    print_review(console, review, "a [model]", review.warnings)
    assert printed(console).splitlines() == [
        "claims: 1 agrees, 1 contradicts, 0 not measured (action units by a [model])",
        "  ✓ agrees: Jaw Drop (AU26, measured 0.62)",
        "  ✗ contradicts: Nose Wrinkle (AU9, measured 0.00)",
        "Warning: The model recognized Surprise, but the text's conclusion names Fear.",
    ]
    print_review(console, review, None, [])
    assert len(printed(console).splitlines()) == 4  # without measurements nothing is checked


def test_the_title_says_that_the_model_knows_drawn_faces_only(console):
    found = Recognition.of([Expression.SURPRISE, Expression.FEAR], [0.7, 0.3])
    note = "The faces are drawn by a program, not photographs."
    print_explained(console, "a.jpg", None, found, ChainOfThought.parse("Words."), note)
    assert "a.jpg: Surprise  (model trained on drawn faces)" in printed(console).splitlines()[0]


@pytest.mark.parametrize("width", [10, 20, 40, 80, 200])
def test_a_narrow_terminal_cuts_no_number(width):
    console = Console(file=io.StringIO(), width=width)
    table = Table("a long name of a column", "activations", "total")
    table.add_row("some words", "25,960,448", "1,102,496")
    print_table(console, table)
    assert {"25,960,448", "1,102,496"} <= set(printed(console).split())
    assert "…" not in printed(console)
    if width <= 20:
        assert printed(console).splitlines() == ["some words", "  activations: 25,960,448", "  total: 1,102,496"]
    else:
        assert max(map(len, printed(console).splitlines())) <= width
