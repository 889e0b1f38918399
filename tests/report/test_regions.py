"""The regions of a face that an explanation names: which, where, and whether its claims about them hold."""

import pytest
from PIL import Image

from explllm.core.action_units import FEAFA, NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.generation import Recognition
from explllm.report.explained import ExplainedFace
from explllm.report.regions import PLACES, region_of


def test_every_unit_has_a_region_on_its_side():
    for unit in FEAFA:
        name = region_of(unit.number - 1)
        x, y, w, h = PLACES[name]
        assert 0 <= x < x + w <= 1.0001 and 0 <= y < y + h <= 1.0001
        if name.split()[0] in ("left", "right"):
            # The person's left is on the right in the image.
            assert name.split()[0] == unit.side and (x > 0.5) == (unit.side == "left")
    assert {region_of(NAMES.index(name)) for name in ("Upper Lip Raise", "Lip Pucker")} == {"mouth"}
    assert region_of(NAMES.index("Jaw Slide Left")) == "jaw"
    assert region_of(NAMES.index("Right Lip Corner Pull")) == "right mouth corner"


@pytest.fixture
def face(tmp_path):
    def make(size=(100, 100), units=None, **settings):
        Image.new("RGB", size).save(tmp_path / "a.png")
        text = "The left brow is lowered. The jaw is dropped. The jaw is thrust forward. The nose is not wrinkled."
        recognition = Recognition.of([Expression.FEAR], [1.0])
        cot = ChainOfThought.from_sections(text, "b", "Fear.")
        return ExplainedFace(tmp_path / "a.png", Expression.FEAR, recognition, cot, units, **settings)

    return make


def test_regions_of_claims(face):
    units = [0.0] * 24
    units[NAMES.index("Left Brow Lower")], units[NAMES.index("Jaw Thrust")] = 0.5, 0.5
    regions = {region.name: region for region in face(units=units).regions}
    assert list(regions) == ["left brow", "nose", "jaw"]
    assert [region.status for region in regions.values()] == ["agrees", "agrees", "contradicts"]
    assert regions["jaw"].units == ("Jaw Drop (AU26)", "Jaw Thrust (AD29)")
    assert regions["nose"].units == ("no Nose Wrinkle (AU9)",) and regions["nose"].mark == "✓"
    assert {region.status for region in face().regions} == {"not measured"}
    assert face().alt_text == "Face labeled Fear; outlined regions: left brow, nose, jaw"


def test_regions_shrink_with_the_margin_around_the_box(face):
    plain, boxed = (face(**settings).regions[0].place for settings in ({}, {"box": [20, 20, 60, 60], "margin": 0.25}))
    assert plain == PLACES["left brow"]
    # 60 pixels of box in the middle of 90 pixels.
    assert boxed == pytest.approx(
        [(15 + 60 * plain[0]) / 90, (15 + 60 * plain[1]) / 90, plain[2] / 1.5, plain[3] / 1.5]
    )
    assert face(size=(200, 100)).regions == []  # a photograph, whose face is anywhere
    assert face(action_units_source="drawn").regions[0].place != plain
