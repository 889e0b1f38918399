import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from explllm.core.action_units import NAMES
from explllm.core.errors import ImageError
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.generation import Recognition
from explllm.report.explained import ExplainedFace


def face(path, units=None):
    found = Recognition.of([Expression.FEAR, Expression.ANGER], [0.75, 0.25])
    return ExplainedFace(path, Expression.FEAR, found, ChainOfThought.from_sections("a", "b", "c"), units)


def test_action_units(tmp_path):
    assert face(tmp_path).bars == [] and face(tmp_path, [0.0] * 24).bars == []
    units = [place / 30 for place in range(24)]
    bars = face(tmp_path, units).bars
    assert [bar.name for bar in bars] == list(reversed(NAMES))[:10]
    assert (bars[0].intensity, bars[0].word) == (23 / 30, "strong")


def test_large_pictures_are_made_small(tmp_path):
    Image.new("RGB", (1000, 500), (200, 10, 10)).save(tmp_path / "large.png")
    large = face(tmp_path / "large.png")
    shown = Image.open(io.BytesIO(base64.b64decode(large.data_url.partition(",")[2])))
    assert shown.size == (224, 112)
    (tmp_path / "torn.png").write_bytes(b"torn")
    with pytest.raises(ImageError):
        _ = face(tmp_path / "torn.png").data_url


def test_right_or_wrong(tmp_path):
    assert face(tmp_path).correct
    assert [label for label, _ in face(tmp_path).likely] == [Expression.FEAR, Expression.ANGER]


def test_units_that_were_not_measured_are_named_and_not_shown_as_absent(tmp_path):
    units = [0.0] * 24
    units[NAMES.index("Jaw Drop")], units[NAMES.index("Nose Wrinkle")] = 0.4, None
    one = face(tmp_path / "a.jpg", units)
    assert [bar.name for bar in one.bars] == ["Jaw Drop"]
    assert one.unmeasured == ["Nose Wrinkle (AU9)"] and face(tmp_path / "a.jpg").unmeasured == []


def test_a_thumbnail_is_cut_with_the_margin_of_training(tmp_path):
    Image.fromarray(np.indices((100, 100)).sum(0).astype(np.uint8)).convert("RGB").save(tmp_path / "a.png")
    for settings, side in (({}, 48), ({"margin": 0.0}, 40), ({"margin": 0.3}, 64)):
        one = replace(face(tmp_path / "a.png"), box=[20, 30, 40, 40], **settings)
        shown = Image.open(io.BytesIO(base64.b64decode(one.data_url.partition(",")[2])))
        assert shown.size == (side, side)
