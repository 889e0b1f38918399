import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.errors import ImageError
from explllm.core.expressions import Expression
from explllm.models.recognition import Recognition
from explllm.report.page import ExplainedFace, write_report

METRICS = {
    "test/accuracy": 0.5,
    "test/macro_recall": 0.375,
    "test/count": 8,
    "test/predictions": {"Fear": 6, "Anger": 2},
    "test/targets": {"Fear": 8, "Anger": 0},
    "test/recall": {"Fear": 0.5, "Anger": None},
    "test/unreadable": [],
    "notice": "The faces are drawn by a program, not photographs.",
    "explllm": "9.9",
}


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words += data.split()

    @property
    def said(self):
        return " ".join(self.words)


@pytest.fixture
def face(drawn_faces):
    cot = ChainOfThought.of("The mouth is <open> & wide.", "It looks tense.", "It is fear.")
    return ExplainedFace(
        drawn_faces / "test/00000-fear.png",
        Expression.ANGER,
        Recognition.of([Expression.FEAR, Expression.ANGER], [0.75, 0.25]),
        cot,
    )


def test_page(tmp_path, face):
    write_report(tmp_path / "run/report.html", "run <7>", METRICS, [face])
    page = Page((tmp_path / "run/report.html").read_text(encoding="utf-8"))
    assert page.words[:2] == ["run", "<7>:"] and "drawn by a program" in page.said
    for words in (
        "0.500 accuracy",
        "0.375 macro recall",
        "8 test faces",
        "Fear 8 6 0.500",
        "Anger 0 2 -",
        "explllm 9.9",
    ):
        assert words in page.said
    assert "Fear (75.0%), labelled Anger" in page.said
    assert "Key observations: The mouth is <open> & wide." in page.said
    assert "Conclusion: It is fear." in page.said
    assert "script" not in page.tags
    # Nothing is fetched from anywhere: the one picture is in the page, and it is the face.
    [link] = page.links
    shown = Image.open(io.BytesIO(base64.b64decode(link.removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == Image.open(face.image).size
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]


def test_large_pictures_are_made_small(tmp_path, face):
    Image.new("RGB", (1000, 500), (200, 10, 10)).save(tmp_path / "large.png")
    large = ExplainedFace(tmp_path / "large.png", face.expression, face.recognition, face.cot)
    shown = Image.open(io.BytesIO(base64.b64decode(large.data_url.partition(",")[2])))
    assert shown.size == (224, 112)
    (tmp_path / "torn.png").write_bytes(b"torn")
    with pytest.raises(ImageError):
        _ = ExplainedFace(tmp_path / "torn.png", face.expression, face.recognition, face.cot).data_url


def test_bars_are_shares_of_the_longest(tmp_path):
    write_report(tmp_path / "report.html", "run", METRICS, [])
    widths = re.findall(r"width: ([\d.]+)%", (tmp_path / "report.html").read_text().partition("<table>")[2])
    assert [float(width) for width in widths] == [75.0, 25.0]


def test_unreadable_faces_are_said(tmp_path):
    write_report(tmp_path / "report.html", "run", {**METRICS, "test/unreadable": ["a", "b"], "notice": ""}, [])
    page = Page((tmp_path / "report.html").read_text())
    assert "2 more faces could not be read and do not count." in page.said
