import base64
import io
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from explllm.core.expressions import LABEL_SETS, Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.generation import Recognition
from explllm.report.page import ExplainedFace, MetricCard, Section, write_report


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.links, self.metrics, self._key = [], [], [], {}, None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._key = dict(attributes).get("data-key")
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "xlink:href")]

    def handle_endtag(self, tag):
        self._key = None

    def handle_data(self, data):
        self.words += data.split()
        if self._key:
            self.metrics[self._key] = data.strip()

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture
def face(drawn_faces):
    cot = ChainOfThought.from_sections("The mouth is <open> & wide.", "It looks tense.", "It is fear.")
    return ExplainedFace(
        drawn_faces / "test/00000-fear.png",
        Expression.ANGER,
        Recognition.of([Expression.FEAR, Expression.ANGER], [0.75, 0.25]),
        cot,
        [0.0] * 8 + [0.9] + [0.0] * 14 + [0.3],
        "drawn",
    )


@pytest.fixture
def table(drawn_table, made_up):
    return made_up(drawn_table)


@pytest.fixture
def write(tmp_path):
    def make(metrics, faces=(), **options):
        write_report(tmp_path / "run/report.html", "run <7>", metrics, faces, **options)
        return Page(tmp_path / "run/report.html")

    return make


def test_metrics_are_those_of_the_metrics(write, table, metrics_of):
    metrics = metrics_of(table)
    page = write(metrics)
    assert page.words[:2] == ["run", "<7>:"] and "drawn by a program" in page.text
    assert {"test/accuracy", "test/ece", "test/count", "test/f1/Fear"} <= set(page.metrics)
    for key, shown in page.metrics.items():
        assert shown == (str(metrics[key]) if key == "test/count" else f"{metrics[key]:.3f}"), key
    low, high = metrics["test/accuracy_interval"]
    assert f"accuracy {low:.3f} to {high:.3f} (95%)" in page.text
    assert "explllm 9.9" in page.text and "One class only" not in page.text


def test_nothing_is_fetched_from_anywhere(write, table, metrics_of, face, tmp_path):
    page = write(metrics_of(table), [face])
    assert page.tags.count("script") == 1  # inline: it is not among the links
    # Besides the icon and the photograph, links lead to places in the page: markers of plots.
    outside = [link for link in page.links if not link.startswith("#")]
    assert len(outside) == 2 and all(link.startswith("data:") for link in outside)
    shown = Image.open(io.BytesIO(base64.b64decode(outside[-1].removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == Image.open(face.image).size
    assert page.tags.count("svg") == 2 + 1  # plots, and the outlines on the photograph
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["plots", "report.html"]
    assert {path.name for path in (tmp_path / "run/plots").iterdir()} == {
        "confusion_matrix.png",
        "by_class.png",
        "reliability.png",
        "predictions.png",
    }


def test_explained_faces(write, table, metrics_of, face):
    page = write(metrics_of(table), [face])
    assert "Fear ✗ wrong labeled Anger Fear 75.0% Anger 25.0%" in page.text
    assert "Action units Jaw Drop AU26 extreme Nose Wrinkle AU9 moderate source: drawn" in page.text
    assert "Key observations: The mouth is <open> & wide." in page.text
    assert "Conclusion: It is fear." in page.text
    # Its claim about the mouth is held against the measured jaw.
    assert "✓ agrees: Jaw Drop (AU26, measured 0.90)" in page.text


def test_published_metrics_are_called_published(write, table, metrics_of):
    page = write(metrics_of(table))
    before, _, after = page.text.partition("accuracy as published")
    assert "91.03" not in before
    for accuracy in ("91.03", "65.93", "62.86", "68.13", "51.86"):
        assert f"{accuracy}%, ExpLLM paper, Table I" in after


def test_a_constant_predictor(write, table, metrics_of):
    table["predicted"] = "Happiness"
    page = write(metrics_of(table[["expression", "predicted"]], labels=tuple(LABEL_SETS["rafdb"])))
    top = page.text.partition("macro recall")[0]
    assert "One class only. The model predicts Happiness for every face" in top
    # Without probabilities there is nothing to say of them.
    assert "ECE" not in page.text and "test/auroc" not in page.metrics


def test_what_does_not_count_is_said(write, table, metrics_of):
    more = {"left_out": {"Contempt": 500}, "dropped_labels": ["Contempt"], "unreadable": ["a", "b"]}
    table.loc[0, "predicted"] = "hard to say"
    table.loc[1, table.filter(like="p_").columns] = float("nan")
    page = write({**metrics_of(table, **more), "training_data_note": ""})
    for words in (
        "2 more faces could not be read and are not scored.",
        "Left out, because the model does not know their expression: 500 Contempt.",
        "The model also knows Contempt, which was not a possible answer here",
        "1 answers name no expression; they count as wrong.",
        f"describe the {len(table) - 1} faces with probabilities.",
    ):
        assert words in page.text
    assert "drawn by a program" not in page.text


def test_further_sections(write, table, metrics_of):
    section = Section(
        "Judge <scores>",
        text="Ten faces.",
        notice="The judge is a program.",
        cards=[MetricCard("conclusion", "4.15", "of 5")],
        header=["part", "score"],
        rows=[["key observations", "3.53"]],
    )
    page = write(metrics_of(table), sections=[section])
    assert "Judge <scores> The judge is a program. Ten faces. 4.15 conclusion of 5 part score" in page.text
    assert "key observations 3.53" in page.text


def test_the_same_again_is_the_same_page(write, table, metrics_of, tmp_path):
    write(metrics_of(table))
    first = (tmp_path / "run/report.html").read_bytes()
    write(metrics_of(table))
    assert (tmp_path / "run/report.html").read_bytes() == first


def test_classes_without_faces(write, metrics_of, made_up):
    frame = pd.DataFrame({"image": [f"{place}.png" for place in range(40)], "expression": ["Fear", "Anger"] * 20})
    page = write(metrics_of(made_up(frame)))
    assert page.metrics["test/recall/Neutral"] == "–"
    assert "without Surprise, Disgust, Happiness, Sadness, Neutral" in page.text
