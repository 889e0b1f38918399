"""The picture of an explained photograph, whatever the texts and boxes are."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.generation import Recognition
from explllm.report.explained import strongest_units
from explllm.report.picture import PicturedFace, _font, _wrapped, draw_picture

GRAY = (120, 120, 120)


@pytest.fixture
def face():
    recognition = Recognition.of((Expression.ANGER, Expression.FEAR), (0.75, 0.25))

    def make(text="**Key Observations:** The brows are lowered.", box=(10, 20, 60, 70), **others):
        return PicturedFace(Image.new("RGB", (70, 70), GRAY), box, recognition, ChainOfThought.parse(text), **others)

    return make


@pytest.mark.parametrize("size", [(300, 200), (200, 4000), (4000, 200), (1, 1)])
def test_any_photograph_fits(face, size):
    picture = draw_picture(Image.new("RGB", size, GRAY), [face()])
    assert picture.width == 1200 and picture.height < 1400


def test_a_longer_text_needs_more_room_and_none_is_lost(face):
    photograph = Image.new("RGB", (300, 200), GRAY)
    heights = [draw_picture(photograph, [face("brow " * words)]).height for words in (10, 400, 800)]
    assert heights[0] < heights[1] < heights[2]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text = "one two\n\nthree " + "x" * 300
    lines = _wrapped(text, ruler, _font(18), 200)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert all(ruler.textlength(line, _font(18)) <= 200 for line in lines)


def test_no_face_and_no_box(face):
    photograph = Image.new("RGB", (300, 200), GRAY)
    assert draw_picture(photograph, []).height < draw_picture(photograph, [face(box=None)]).height
    boxed, plain = (np.asarray(draw_picture(photograph, [face(box=box)])) for box in ((10, 20, 60, 70), None))
    assert not np.array_equal(boxed, plain)


def test_bars(face):
    units = [None if name == "Cheeks Puff" else 0.0 for name in NAMES]
    assert strongest_units(units) == []
    units[4], units[8], units[0] = 0.3, 0.9, 0.04  # the last is absent, in words as in bars
    assert strongest_units(units) == [("Jaw Drop", 0.9), ("Left Brow Lower", 0.3)]
    assert len(strongest_units([0.5] * 24)) == 10
    photograph = Image.new("RGB", (300, 200), GRAY)
    drawn = {
        jaw: np.asarray(draw_picture(photograph, [face(action_units=[0.0] * 8 + [jaw] + [0.0] * 15)])).astype(int)
        for jaw in (0.1, 0.9)
    }
    colored = {jaw: (np.abs(pixels - (31, 97, 196)).max(axis=2) < 4).sum() for jaw, pixels in drawn.items()}
    assert colored[0.9] > colored[0.1] + 500
    assert draw_picture(photograph, [face(action_units=units, action_units_source="a model")]).height > 300


def test_claims_and_warnings_are_drawn_below_the_text(face):
    """A smile that the text denies: the lines are in the picture, contradictions in their own color."""
    units = [0.9 if "Lip Corner Pull" in name else 0.0 for name in NAMES]
    photograph = Image.new("RGB", (300, 200), GRAY)
    text = "**Key Observations:** The lip corners are not pulled up. The brows are lowered."
    checked = face(text, action_units=units)
    assert checked.review.count("contradicts") == 4
    picture, plain = (np.asarray(draw_picture(photograph, [one])).astype(int) for one in (checked, face(text)))
    red = [(np.abs(pixels - (176, 48, 32)).max(axis=2) < 40).sum() for pixels in (picture, plain)]
    assert red[0] > red[1] + 500
    warned = np.asarray(draw_picture(photograph, [face(text, warnings=["No face."] * 12)]))
    assert warned.shape[0] > plain.shape[0]
