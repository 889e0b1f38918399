"""Single conversations, and the handling of unreadable images."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from explllm.conversation.messages import explanation, explanation_first, recognition
from explllm.core.action_units import NAMES, mirror_action_units
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.dataset import Collator, EvaluationDataset, ImageCache, TrainingDataset
from explllm.data.mixture import SampleSpec
from explllm.data.transforms import Augment
from explllm.explanations.chain_of_thought import ChainOfThought, mirror_text
from explllm.explanations.instructions import write_instructions
from explllm.explanations.rule_writer import RuleWriter
from explllm.faces.pixels import IMAGE_PRESETS

FLIP = {"rotation": 0, "scale": 0, "shift": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "erase": 0}


@pytest.fixture
def faces(drawn_faces):
    """The drawn faces and their images."""
    manifest = Manifest.read(drawn_faces / "manifest.parquet")
    # As if a language model had written the texts; those written by rules change for every sample.
    manifest.frame["cot_source"] = "a model"
    return manifest, ImageCache(manifest, IMAGE_PRESETS["small"], 0)


@pytest.fixture
def own_faces(faces, tmp_path):
    """A copy of the training faces and their images, which tests may change."""
    shutil.copytree(faces[0].root / "train", tmp_path / "faces/train")
    manifest = Manifest(faces[0].frame, tmp_path / "faces")
    return manifest, ImageCache(manifest, IMAGE_PRESETS["small"], 0)


@pytest.fixture
def dataset(faces, conversations):
    return lambda faces=faces, **settings: TrainingDataset(*faces, conversations, rows=range(56), **settings)


def test_conversations(dataset, faces, conversations):
    frame, found = faces[0].frame, dataset()
    label, cot = frame.at[3, "expression"], frame.at[3, "cot"]
    assert found[SampleSpec(3, "fer", 0)].encoded == conversations.encode(recognition(label))
    assert found[SampleSpec(3, "cot", 0)].encoded == conversations.encode(explanation(label, cot))
    assert found[SampleSpec(3, "cot", 0)].expression == list(Expression).index(label)
    assert len(found) == 56


def test_instruction_conversations(faces, conversations):
    """Texts of a model stay; those of rules are written again, and a flip exchanges their sides."""
    manifest = faces[0]
    labels, units = manifest.frame["expression"], [list(row) for row in manifest.intensities()]
    row = next(row for row in range(56) if mirror_action_units(units[row]) != units[row])

    def answers(kind, seed=0, flip=0.0, **columns):
        own = Manifest(manifest.frame.assign(**columns), manifest.root)
        images = ImageCache(own, IMAGE_PRESETS["small"], 10)
        sample = TrainingDataset(own, images, conversations, augment=Augment(flip=flip, **FLIP))[
            SampleSpec(row, kind, seed)
        ]
        text = conversations.tokenizer.decode(sample.encoded.input_ids, skip_special_tokens=True)
        return sample, text, conversations.decode([token for token in sample.encoded.labels if token >= 0])

    for kind, question in (("description", "Description:"), ("units", "Units:"), ("reasoning", "Reasoning:")):
        for flip, values in ((0.0, units[row]), (1.0, mirror_action_units(units[row]))):
            sample, text, answer = answers(kind, seed=3, flip=flip)
            written = write_instructions(RuleWriter(), values, Expression(labels[row]), 3)[kind]
            assert question in text and answer == conversations.decode(conversations.tokenizer(written)["input_ids"])
        assert answers(kind, fea_source="gpt-4o", **{f"fea_{kind}": "The face is calm."})[2] == "The face is calm."
        # The answer's first token is the label only in a description.
        assert (sample.expression >= 0) == (kind == "description")
    for flip, values in ((0.0, units[row]), (1.0, mirror_action_units(units[row]))):
        sample, text, _ = answers("unit_state", flip=flip)
        states = re.findall(r"([A-Z][A-Za-z ]+): (active|not active)", text)
        assert len(states) == 6 and sample.expression == -1
        assert all((values[NAMES.index(name)] >= 0.3) == (state == "active") for name, state in states)
    facs = {"facs": [[1, 0, 0, 0, 0, 0, 0, 1]] * len(labels), "facs_set": "disfa8"}
    text = "".join(answers("unit_state", seed, **facs)[1] for seed in range(4))
    assert "AU1 (Inner Brow Raiser): active" in text and "AU26 (Jaw Drop): active" in text
    assert "AU4 (Brow Lowerer): not active" in text


def test_the_order_of_the_rounds(dataset, faces, conversations):
    frame = faces[0].frame
    label, cot = frame.at[3, "expression"], frame.at[3, "cot"]
    orders = {
        "label_first": conversations.encode(explanation(label, cot)),
        "cot_first": conversations.encode(explanation_first(cot, label)),
    }
    assert orders["label_first"] != orders["cot_first"]
    for order, encoded in orders.items():
        assert dataset(cot_order=order)[SampleSpec(3, "cot", 0)].encoded == encoded
    random_order = [dataset(cot_order="random")[SampleSpec(3, "cot", seed)] for seed in range(12)]
    assert {sample.encoded for sample in random_order} == {*orders.values()}
    assert dataset(cot_order="cot_first")[SampleSpec(3, "fer", 0)].encoded == conversations.encode(recognition(label))


def test_a_flipped_face_has_a_flipped_text(dataset, faces, conversations):
    frame = faces[0].frame
    row = next(row for row in range(56) if mirror_text(frame.at[row, "cot"]) != frame.at[row, "cot"])
    label, cot = frame.at[row, "expression"], frame.at[row, "cot"]
    plain, flipped = (
        dataset()[SampleSpec(row, "cot", 0)],
        dataset(augment=Augment(flip=1, **FLIP))[SampleSpec(row, "cot", 0)],
    )
    assert torch.equal(flipped.pixel_values, plain.pixel_values.flip(2))
    assert flipped.encoded == conversations.encode(explanation(label, mirror_text(cot)))
    label_only = dataset(augment=Augment(flip=1, **FLIP))[SampleSpec(row, "fer", 0)]
    assert label_only.encoded == conversations.encode(recognition(label))


def by_rules(faces, conversations, flip=0.0, **columns):
    """A dataset whose texts were written by rules, and a function that returns label and text of a sample."""
    frame = faces[0].frame.assign(cot_source="offline", **columns)
    manifest = Manifest(frame, faces[0].root)
    images = ImageCache(manifest, IMAGE_PRESETS["small"], 10)
    dataset = TrainingDataset(manifest, images, conversations, augment=Augment(flip=flip, **FLIP))

    def answer(row, seed):
        encoded = dataset[SampleSpec(row, "cot", seed)].encoded
        label, _, cot = conversations.decode([token for token in encoded.labels if token >= 0]).partition("**")
        return label.strip(), "**" + cot

    return answer


def test_texts_by_rules_change_with_the_seed(faces, conversations):
    answer, frame = by_rules(faces, conversations), faces[0].frame
    texts = [answer(5, seed) for seed in (1, 2, 3, 1)]
    assert texts[0] == texts[3] and len({cot for _, cot in texts}) > 1
    for label, cot in texts:
        assert label == frame.at[5, "expression"] == ChainOfThought.parse(cot).expression
    # Other texts, and those of rows without action units, stay the same.
    assert by_rules(faces, conversations, action_units=None)(5, 1)[1] == frame.at[5, "cot"]
    one, other = (TrainingDataset(*faces, conversations)[SampleSpec(5, "cot", seed)].encoded for seed in (1, 2))
    assert one == other


def test_texts_by_rules_follow_the_flip(faces, conversations):
    answer = by_rules(faces, conversations, flip=1.0)
    for row in range(14):
        label, cot = answer(row, 5)
        units = mirror_action_units(faces[0].frame.at[row, "action_units"])
        assert cot == RuleWriter().write(units, Expression(label), seed=5).text


def test_texts_by_rules_omit_units_that_were_not_measured(faces, conversations):
    """Only the right brow was measured; on the flipped image it is the left one."""
    count, only = len(faces[0]), "Right Brow Raise"
    columns = {
        "action_units": [[0.6 if name == only else 0.0 for name in NAMES]] * count,
        "action_units_missing": ",".join(name for name in NAMES if name != only),
    }
    for flip, measured in ((0.0, only), (1.0, "Left Brow Raise")):
        answer = by_rules(faces, conversations, flip, **columns)
        units = [0.6 if name == measured else None for name in NAMES]
        for seed in range(10):
            label, cot = answer(3, seed)
            assert cot == RuleWriter().write(units, Expression(label), seed=seed).text


def spoil(manifest, *rows):
    for row in rows:
        path = manifest.image_path(row)
        path.write_bytes(path.read_bytes()[:200])


def test_boxes_crop_the_faces_of_one_photograph(own_faces, conversations, tmp_path):
    manifest, _ = own_faces
    photograph = Image.new("RGB", (300, 200), "green")
    photograph.paste("red", (20, 20, 120, 120))
    photograph.paste("blue", (180, 60, 260, 140))
    photograph.save(tmp_path / "faces" / "two.png")
    frame = manifest.frame.iloc[:4].copy()
    frame["image"] = ["two.png", "two.png", "two.png", frame["image"].iloc[3]]
    frame["box"] = [[20, 20, 100, 100], [180, 60, 80, 80], [400, 60, 80, 80], None]
    manifest = Manifest(frame, manifest.root)
    images = ImageCache(manifest, IMAGE_PRESETS["small"], 10, margin=0.0)
    assert (images[0] == (255, 0, 0)).all() and (images[1] == (0, 0, 255)).all()
    assert np.array_equal(images[3], IMAGE_PRESETS["small"].resize(manifest.image_path(3)))
    wide = ImageCache(manifest, IMAGE_PRESETS["small"], 0, margin=0.2)[0]
    assert (wide[0, 0] == (0, 128, 0)).all() and (wide[32, 32] == (255, 0, 0)).all()
    # A box beside the image is an image that cannot be read, named with its path.
    [marked] = EvaluationDataset(manifest, images, [2])
    assert not marked.readable and "two.png: the box [400" in marked.unreadable[0]


def test_an_unreadable_training_face_is_named_and_replaced(dataset, own_faces):
    manifest, _ = own_faces
    spoil(manifest, 4)
    manifest.image_path(5).unlink()
    sample = dataset(own_faces, max_unreadable=2)[SampleSpec(4, "fer", 0)]
    assert (sample.row, sample.readable) == (6, True)
    assert [name.split("/")[-1] for name in sample.unreadable] == [
        f"{manifest.image_path(4).name}: unreadable image: image file is truncated",
        f"{manifest.image_path(5).name}: the image does not exist",
    ]
    assert sample.expression == list(Expression).index(manifest.frame.at[6, "expression"])


def test_only_training_faces_replace_an_unreadable_one(dataset, own_faces):
    """The row after the last training row is a validation row."""
    manifest, _ = own_faces
    spoil(manifest, 54, 55)
    sample = dataset(own_faces, max_unreadable=9)[SampleSpec(54, "fer", 0)]
    assert sample.row == 0 and len(sample.unreadable) == 2
    assert manifest.frame.at[56, "split"] != "train"


def test_a_replacement_has_what_the_conversation_needs(dataset, own_faces):
    manifest, _ = own_faces
    manifest.frame.loc[[5, 6], "cot"] = None
    spoil(manifest, 4)
    assert dataset(own_faces, max_unreadable=9)[SampleSpec(4, "cot", 0)].row == 7
    assert dataset(own_faces, max_unreadable=9)[SampleSpec(4, "fer", 0)].row == 5


def test_the_search_ends_at_the_limit(dataset, own_faces):
    manifest, _ = own_faces
    spoil(manifest, 4, 5, 6)
    sample = dataset(own_faces, max_unreadable=1)[SampleSpec(4, "fer", 0)]
    assert not sample.readable and len(sample.unreadable) == 2
    assert (sample.pixel_values == sample.pixel_values.flatten()[0]).all()
    for path in manifest.root.rglob("train/*.png"):
        path.unlink()
    sample = dataset(own_faces, max_unreadable=1000)[SampleSpec(4, "fer", 0)]
    assert not sample.readable and len(sample.unreadable) == 56


def test_an_unreadable_image_of_several_faces_counts_once(dataset, own_faces):
    manifest, _ = own_faces
    manifest.frame.loc[[5, 6], "image"] = manifest.frame.at[4, "image"]
    spoil(manifest, 4)
    sample = dataset(own_faces, max_unreadable=1)[SampleSpec(4, "fer", 0)]
    assert (sample.row, sample.readable, len(sample.unreadable)) == (7, True, 1)


def test_evaluation_marks_unreadable_images(own_faces, conversations):
    manifest, images = own_faces
    spoil(manifest, 50)
    found = EvaluationDataset(manifest, images, [49, 50, -1 - 51])
    batch = Collator(conversations)([found[index] for index in range(3)])
    assert batch["readable"].tolist() == [True, False, True]
    assert batch["rows"].tolist() == [49, 50, -52]
    assert len(batch["unreadable"]) == 1 and str(manifest.image_path(50)) in batch["unreadable"][0]
    assert not batch["pixel_values"][1].any()
    assert torch.equal(batch["pixel_values"][2], IMAGE_PRESETS["small"](manifest.image_path(51)))
    assert "input_ids" not in batch


def test_padding_on_the_right(dataset, conversations):
    found = dataset()
    samples = [found[SampleSpec(1, "fer", 0)], found[SampleSpec(1, "cot", 0)]]
    batch = Collator(conversations)(samples)
    short, long = (len(sample.encoded.input_ids) for sample in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, long)
    assert batch["attention_mask"].sum(1).tolist() == [short, long]
    assert batch["labels"][0, short:].tolist() == [-100] * (long - short)
    assert batch["input_ids"][0, :short].tolist() == list(samples[0].encoded.input_ids)
