"""Faces with action units: labels, masks, flips, and unusable data."""

import numpy as np
import pandas as pd
import pytest
import torch

from explllm.core.action_units import NAMES, mirror_action_units
from explllm.core.errors import ManifestError, MissingPathError
from explllm.core.manifest import Manifest
from explllm.data.au_faces import (
    DrawnActionUnits,
    EvaluationUnits,
    ManifestActionUnits,
    TrainingUnits,
    UnitLabels,
    collate_units,
)
from explllm.data.datamodules import ManifestFaces
from explllm.data.dataset import ImageCache
from explllm.data.mixture import SampleSpec
from explllm.data.transforms import Augment
from explllm.faces.pixels import ImagePreset

PRESET = ImagePreset.named("small", 32)
STILL = dict.fromkeys(("rotation", "scale", "shift", "brightness", "contrast", "saturation", "hue", "erase"), 0.0)


@pytest.fixture
def manifest(drawn_faces):
    return Manifest.read(drawn_faces / "manifest.parquet")


@pytest.fixture
def attached(ready):
    return lambda data, stage="fit", **rank: ready(data, stage, PRESET, **rank)


def written(manifest, path, **columns):
    """A manifest with changed columns, whose images are those of the drawn faces."""
    frame = manifest.frame.drop(columns=["cot", "cot_source"])
    for name, values in columns.items():
        frame = frame.drop(columns=[name], errors="ignore")
        if values is not None:
            frame[name] = pd.Series(values, index=frame.index, dtype=object)
    Manifest(frame, manifest.root).write(path)
    return {"manifest": path, "root": manifest.root}


def test_units_that_were_not_measured_have_no_label(manifest):
    frame = manifest.frame.copy()
    frame["action_units_missing"] = pd.Series([None] * len(frame), dtype=object)
    frame.at[0, "action_units_missing"] = "Cheeks Puff, Nose Wrinkle"
    frame.at[1, "action_units"] = None
    labels = UnitLabels.of(Manifest(frame, manifest.root))
    assert [NAMES[place] for place in np.flatnonzero(np.isnan(labels.action_units[0]))] == [
        "Cheeks Puff",
        "Nose Wrinkle",
    ]
    assert np.isnan(labels.action_units[1]).all() and not labels.labeled()[1]
    assert labels.action_units[2] == pytest.approx(frame.at[2, "action_units"])
    assert labels.facs_set is None and labels.facs.shape == (len(frame), 0)


def test_a_flip_exchanges_left_and_right_in_image_and_labels(manifest):
    images, labels = ImageCache(manifest, PRESET, 10), UnitLabels.of(manifest)
    labels.action_units[3, NAMES.index("Left Eye Close")] = np.nan
    flipped = TrainingUnits(images, labels, [3], Augment(flip=1.0, **STILL))[SampleSpec(3, "action_units", 5)]
    plain = TrainingUnits(images, labels, [3])[SampleSpec(3, "action_units", 5)]
    assert torch.equal(flipped.pixel_values, plain.pixel_values.flip(-1))
    expected = torch.tensor(mirror_action_units(labels.action_units[3].tolist()))
    assert torch.equal(flipped.action_units.nan_to_num(-1), expected.nan_to_num(-1))
    assert flipped.action_units[NAMES.index("Right Eye Close")].isnan()  # no label stays none, on the other side


def test_images_that_cannot_be_read(manifest, tmp_path):
    import shutil

    shutil.copytree(manifest.root, tmp_path / "faces")
    broken = Manifest(manifest.frame, tmp_path / "faces")
    broken.image_path(2).write_bytes(b"no image")
    images, labels = ImageCache(broken, PRESET, 10), UnitLabels.of(broken)
    taken = TrainingUnits(images, labels, [1, 2, 3], max_unreadable=1)[SampleSpec(2, "action_units", 0)]
    assert (taken.row, taken.readable) == (3, True) and "00000-" in taken.unreadable[0]
    given_up = TrainingUnits(images, labels, [2], max_unreadable=0)[SampleSpec(2, "action_units", 0)]
    assert not given_up.readable and given_up.action_units.isnan().all()
    # Training uses no FACS labels, even if the table has them.
    with_facs = UnitLabels(labels.action_units, "bp4d", np.ones((len(labels.action_units), 2), np.float32))
    both = TrainingUnits(images, with_facs, [2, 3])
    samples = [both[SampleSpec(row, "action_units", 0)] for row in (2, 3)]
    assert collate_units(samples)["readable"].tolist() == [False, True]
    batch = collate_units([EvaluationUnits(images, labels, [1, 2, -2])[place] for place in range(3)])
    assert batch["readable"].tolist() == [True, False, True] and batch["rows"].tolist() == [1, 2, -2]
    assert len(batch["unreadable"]) == 1
    assert batch["pixel_values"].shape == (3, 3, 32, 32) and batch["action_units"].shape == (3, 24)


def test_an_epoch_contains_every_labeled_face_once(manifest, tmp_path, attached):
    units = list(manifest.frame["action_units"])
    units[0] = units[5] = None
    data = attached(
        ManifestActionUnits(
            **written(manifest, tmp_path / "some.parquet", action_units=units), batch_size=9, micro_batch_size=3
        )
    )
    assert data.trainer.accumulate_grad_batches == 3
    rows = [row for batch in data.train_dataloader() for row in batch["rows"].tolist()]
    train = set(manifest.frame.index[manifest.frame["split"] == "train"]) - {0, 5}
    assert len(train) == len(rows) == len(set(rows)) == 54 and set(rows) == train
    assert [row for batch in data.val_dataloader() for row in batch["rows"].tolist()] == list(data.frame("val").index)


def test_people_are_held_out_whole(manifest, tmp_path, attached):
    splits = ["test" if split == "test" else "train" for split in manifest.frame["split"]]
    table = written(manifest, tmp_path / "two.parquet", split=splits, expression=None)
    frame = attached(ManifestActionUnits(**table, val_fraction=0.2, batch_size=8, micro_batch_size=8)).frame()
    people = {split: set(rows["identity"]) for split, rows in frame.groupby("split")}
    assert people["val"] and not people["val"] & people["train"]


def test_facs_labels_are_for_tests(manifest, tmp_path, attached):
    labels = [[row % 2, 0, 0, 1, 0, 0, 0, 0] for row in range(len(manifest))]
    labels[60] = None
    columns = {"facs": labels, "facs_set": ["disfa8"] * len(manifest), "action_units": None, "expression": None}
    for ending in ("parquet", "csv"):
        table = written(manifest, tmp_path / f"disfa.{ending}", **columns)
        data = attached(ManifestActionUnits(**table), "test")
        assert data.labels.facs_set == "disfa8"
        batches = list(data.test_dataloader())
        found = {
            row: facs for batch in batches for row, facs in zip(batch["rows"].tolist(), batch["facs"], strict=True)
        }
        test = manifest.frame.index[manifest.frame["split"] == "test"]
        assert set(found) == set(test) - {60}
        assert all(facs.tolist() == labels[row] for row, facs in found.items())
    with pytest.raises(ManifestError, match="no values in the column action_units"):
        attached(ManifestActionUnits(**table))


def test_unusable_data(manifest, tmp_path, attached):
    with pytest.raises(MissingPathError, match="the manifest does not exist"):
        attached(ManifestActionUnits(tmp_path / "none.parquet"))
    with pytest.raises(MissingPathError, match="the folder does not exist"):
        attached(ManifestActionUnits(tmp_path / "none.parquet", root=tmp_path / "none"))
    with pytest.raises(ManifestError, match="no values in the column action_units .*First estimate the action units"):
        attached(ManifestActionUnits(**written(manifest, tmp_path / "bare.csv", action_units=None)))
    only_test = [
        None if split == "train" else units for split, units in manifest.frame[["split", "action_units"]].values
    ]
    data = attached(ManifestActionUnits(**written(manifest, tmp_path / "untrained.parquet", action_units=only_test)))
    with pytest.raises(ManifestError, match="no row of the split `train` has action units"):
        data.train_dataloader()
    only_train = [
        units if split == "train" else None for split, units in manifest.frame[["split", "action_units"]].values
    ]
    table = written(manifest, tmp_path / "untested.parquet", action_units=only_train)
    with pytest.raises(ManifestError, match="no row of the split `test` has FEAFA or FACS action units"):
        attached(ManifestActionUnits(**table), "test").test_dataloader()
    for value, said in (("1.5", "1.5 of Left Eye Close is not in"), ("NaN", "nan of Left Eye Close is not in")):
        line = f'{{"image": "a.png", "split": "train", "action_units": [{", ".join([value, *["0"] * 23])}]}}'
        (tmp_path / "wrong.jsonl").write_text(line)
        with pytest.raises(ManifestError, match=said):
            attached(ManifestActionUnits(tmp_path / "wrong.jsonl"))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"facs": [[0] * 8] * 97, "facs_set": ["disfa8"] * 96 + ["bp4d12"]}, "names bp4d12 and disfa8"),
        ({"facs": [[0] * 8] * 97, "facs_set": ["ck"] * 97}, "names ck"),
        ({"facs": [[0] * 12] * 97, "facs_set": ["disfa8"] * 97}, "not labels of disfa8"),
        ({"facs": [[2] * 8] * 97, "facs_set": ["disfa8"] * 97}, "not labels of disfa8"),
    ],
)
def test_invalid_facs_labels(manifest, tmp_path, attached, columns, said):
    data = attached(ManifestActionUnits(**written(manifest, tmp_path / "facs.parquet", **columns)), "test")
    with pytest.raises(ManifestError, match=said):
        data.test_dataloader()


def test_the_note_names_the_source_of_the_labels(drawn_faces, manifest, tmp_path, attached):
    drawn = DrawnActionUnits(drawn_faces, 56, 14, 27, 64, batch_size=8, micro_batch_size=8)
    assert attached(drawn).training_data_note == "The faces are drawn by a program, not photographs."
    estimated = written(manifest, tmp_path / "est.parquet", action_units_source=["mediapipe-blendshapes"] * 97)
    data = attached(ManifestActionUnits(**estimated, batch_size=8, micro_batch_size=8))
    assert data.training_data_note == "Action unit labels by: mediapipe-blendshapes."
    # As a regressor leaves it that has estimated drawn faces.
    again = written(
        manifest,
        tmp_path / "again.parquet",
        action_units_source=["explllm second"] * 97,
        action_units_true_source=["explllm first, drawn"] * 97,
    )
    notice = "The faces are drawn by a program, not photographs."
    data = attached(ManifestActionUnits(**again, batch_size=8, micro_batch_size=8))
    assert data.training_data_note == f"{notice} Action unit labels by: explllm second."
    faces = ManifestFaces(**again)
    faces.setup("predict")
    assert faces.training_data_note == notice


def test_two_processes_share_the_test(drawn_faces, attached):
    rows = []
    for rank in range(2):
        data = attached(DrawnActionUnits(drawn_faces, 56, 14, 27, 64), "test", global_rank=rank, world_size=2)
        rows.append([row for batch in data.test_dataloader() for row in batch["rows"].tolist()])
    assert len(rows[0]) == len(rows[1]) == 14
    counting = [row for part in rows for row in part if row >= 0]
    assert len(counting) == len(set(counting)) == 27
