"""Single conversations: what is learned of a face, and what becomes of faces that cannot be read."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from explllm.conversation.messages import explanation, explanation_first, recognition
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.dataset import Collator, EvaluationDataset, ImageCache, TrainingDataset
from explllm.data.mixture import SampleSpec
from explllm.data.transforms import Augment
from explllm.explanations.chain_of_thought import mirror_text
from explllm.faces.pixels import IMAGE_PRESETS

FLIP = {"rotation": 0, "scale": 0, "shift": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "erase": 0}


@pytest.fixture
def faces(drawn_faces, tmp_path):
    """A copy of the drawn faces, its table, and the images."""
    shutil.copytree(drawn_faces, tmp_path / "faces")
    manifest = Manifest.read(tmp_path / "faces/manifest.parquet")
    # Texts as if a language model had written them: those by rules are written anew at each draw.
    manifest.frame["cot_source"] = "a model"
    return manifest, ImageCache(manifest, IMAGE_PRESETS["small"], 0)


@pytest.fixture
def dataset(faces, conversations):
    return lambda **settings: TrainingDataset(*faces, conversations, rows=range(56), **settings)


def test_conversations(dataset, faces, conversations):
    frame, found = faces[0].frame, dataset()
    label, cot = frame.at[3, "expression"], frame.at[3, "cot"]
    assert found[SampleSpec(3, "fer", 0)].encoded == conversations.encode(recognition(label))
    assert found[SampleSpec(3, "cot", 0)].encoded == conversations.encode(explanation(label, cot))
    assert found[SampleSpec(3, "cot", 0)].expression == list(Expression).index(label)
    assert len(found) == 56


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


def test_texts_by_rules_are_worded_anew_and_stay_true(faces, conversations):
    """Their wording changes from draw to draw; equal draws say the same, and a flipped face is described flipped."""
    manifest, images = faces
    manifest.frame["cot_source"] = "offline"
    found = TrainingDataset(manifest, images, conversations)
    texts = [
        conversations.decode([t for t in found[SampleSpec(5, "cot", seed)].encoded.labels if t != -100])
        for seed in (1, 2, 1)
    ]
    assert texts[0] == texts[2] != texts[1]
    assert all(text.strip().startswith(manifest.frame.at[5, "expression"]) for text in texts)


def spoil(manifest, *rows):
    for row in rows:
        path = manifest.image_path(row)
        path.write_bytes(path.read_bytes()[:200])


def test_faces_of_one_photograph_are_cut_out_by_their_boxes(faces, conversations, tmp_path):
    manifest, _ = faces
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


def test_an_unreadable_training_face_is_named_and_replaced(dataset, faces):
    manifest, _ = faces
    spoil(manifest, 4)
    manifest.image_path(5).unlink()
    sample = dataset(max_unreadable=2)[SampleSpec(4, "fer", 0)]
    assert (sample.row, sample.readable) == (6, True)
    assert [name.split("/")[-1] for name in sample.unreadable] == [
        f"{manifest.image_path(4).name}: unreadable image: image file is truncated",
        f"{manifest.image_path(5).name}: there is no such image",
    ]
    assert sample.expression == list(Expression).index(manifest.frame.at[6, "expression"])


def test_no_face_for_testing_takes_the_place_of_a_training_face(dataset, faces):
    """The last row to learn from stands before the first one to validate on."""
    manifest, _ = faces
    spoil(manifest, 54, 55)
    sample = dataset(max_unreadable=9)[SampleSpec(54, "fer", 0)]
    assert sample.row == 0 and len(sample.unreadable) == 2
    assert manifest.frame.at[56, "split"] != "train"


def test_a_replacement_has_what_the_conversation_needs(dataset, faces):
    manifest, _ = faces
    manifest.frame.loc[[5, 6], "cot"] = None
    spoil(manifest, 4)
    assert dataset(max_unreadable=9)[SampleSpec(4, "cot", 0)].row == 7
    assert dataset(max_unreadable=9)[SampleSpec(4, "fer", 0)].row == 5


def test_the_search_ends_at_the_limit(dataset, faces):
    manifest, _ = faces
    spoil(manifest, 4, 5, 6)
    sample = dataset(max_unreadable=1)[SampleSpec(4, "fer", 0)]
    assert not sample.readable and len(sample.unreadable) == 2
    assert (sample.pixel_values == sample.pixel_values.flatten()[0]).all()
    for path in manifest.root.rglob("train/*.png"):
        path.unlink()
    sample = dataset(max_unreadable=1000)[SampleSpec(4, "fer", 0)]
    assert not sample.readable and len(sample.unreadable) == 56


def test_evaluation_marks_what_cannot_be_read(faces, conversations):
    manifest, images = faces
    spoil(manifest, 70)
    found = EvaluationDataset(manifest, images, [69, 70, -1 - 71])
    batch = Collator(conversations)([found[index] for index in range(3)])
    assert batch["readable"].tolist() == [True, False, True]
    assert batch["rows"].tolist() == [69, 70, -72]
    assert len(batch["unreadable"]) == 1 and str(manifest.image_path(70)) in batch["unreadable"][0]
    assert not batch["pixel_values"][1].any()
    assert torch.equal(batch["pixel_values"][2], IMAGE_PRESETS["small"](manifest.image_path(71)))
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
