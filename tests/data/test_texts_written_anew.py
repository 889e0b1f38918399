"""Chains of thought that the rules wrote are written anew at each draw, and keep to the picture and the label."""

import pytest

from explllm.conversation.encoder import ConversationEncoder
from explllm.core.action_units import NAMES, mirror_action_units
from explllm.core.expressions import Expression
from explllm.data.dataset import ImageCache, TrainingDataset
from explllm.data.mixture import SampleSpec
from explllm.data.transforms import Augment
from explllm.drawn_faces.dataset import draw_faces
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.rule_writer import RuleWriter
from explllm.faces.pixels import ImagePreset
from explllm.models.build import small_tokenizer


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("drawn") / "faces", train=14, val=0, test=0, size=48)


@pytest.fixture(scope="module")
def encoder():
    return ConversationEncoder(small_tokenizer(1024, "plain"), 4)


def dataset(manifest, encoder, flip=0.0):
    off = {"rotation": 0, "scale": 0, "shift": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "erase": 0}
    images = ImageCache(manifest, ImagePreset(size=32), 1)
    return TrainingDataset(manifest, images, encoder, augment=Augment(flip=flip, **off))


def said(sample, encoder):
    label, _, cot = encoder.decode([token for token in sample.encoded.labels if token >= 0]).partition("**")
    return label.strip(), "**" + cot


def test_other_words_at_each_draw_and_the_same_for_the_same(manifest, encoder):
    faces = dataset(manifest, encoder)
    texts = [said(faces[SampleSpec(3, "cot", seed)], encoder) for seed in (1, 2, 3, 1)]
    assert texts[0] == texts[3]
    assert len({cot for _, cot in texts}) > 1
    assert {label for label, _ in texts} == {manifest.frame.at[3, "expression"]}
    for label, cot in texts:
        assert ChainOfThought.parse(cot).expression == label


def test_a_flipped_face_gets_the_text_of_its_mirrored_action_units(manifest, encoder):
    flipped = dataset(manifest, encoder, flip=1.0)
    for row in range(len(manifest)):
        label, cot = said(flipped[SampleSpec(row, "cot", 5)], encoder)
        units = mirror_action_units(manifest.frame.at[row, "action_units"])
        assert cot == RuleWriter().write(units, Expression(label), seed=5).text


def test_texts_of_others_stay_as_they_are(manifest, encoder):
    frame = manifest.frame.copy()
    frame["cot_source"] = "gpt-4o"
    other = type(manifest)(frame, manifest.root)
    faces = dataset(other, encoder)
    assert {said(faces[SampleSpec(3, "cot", seed)], encoder)[1] for seed in (1, 2)} == {frame.at[3, "cot"]}


def test_units_that_were_not_measured_stay_unsaid_at_each_draw(manifest, encoder):
    """Known of each face: the right brow alone. On the flipped picture it is the left one."""
    frame = manifest.frame.copy()
    missing = [name for name in NAMES if name != "Right Brow Raise"]
    frame["action_units"] = [[0.6 if name == "Right Brow Raise" else 0.0 for name in NAMES]] * len(frame)
    frame["action_units_missing"] = ",".join(missing)
    partly = type(manifest)(frame, manifest.root)
    for flip, name in ((0.0, "Right Brow Raise"), (1.0, "Left Brow Raise")):
        faces, units = dataset(partly, encoder, flip), [0.6 if one == name else None for one in NAMES]
        for seed in range(20):
            label, cot = said(faces[SampleSpec(3, "cot", seed)], encoder)
            assert cot == RuleWriter().write(units, Expression(label), seed=seed).text


def test_texts_by_rules_stay_where_the_units_are_gone(manifest, encoder):
    other = type(manifest)(manifest.frame.drop(columns="action_units"), manifest.root)
    faces = dataset(other, encoder)
    assert said(faces[SampleSpec(3, "cot", 1)], encoder)[1] == manifest.frame.at[3, "cot"]
