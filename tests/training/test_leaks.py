"""Training faces are recorded as they were trained on; test faces among them are found, and what is unknown is said."""

import os
import shutil

import pandas as pd
import pytest
from PIL import Image

from explllm.core.manifest import Manifest
from explllm.training.face_record import TRAINING_FACES, read_record, training_faces, write_record
from explllm.training.leaks import ComparedFaces


@pytest.fixture
def root(tmp_path):
    """Two data sets below one folder: four frames of two people of each."""
    for set_name, shade in (("bp4d", 0), ("disfa", 100)):
        for number in range(4):
            path = tmp_path / f"{set_name}/F{number // 2}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, 10 * number, 9)).save(path)
    return tmp_path


def table(root, below, splits, facs=None, **columns):
    """The frames of a data set, named from `root`; person F0 has the first two, F1 the others."""
    folder = root / below
    images = sorted(path.relative_to(root).as_posix() for path in folder.rglob("*.png"))
    frame = pd.DataFrame({"image": images, "split": splits, "identity": ["F0", "F0", "F1", "F1"]})
    if facs:
        frame["facs_set"] = facs
    return Manifest(frame.assign(**columns), root)


def check(record, manifest):
    """The result for the rows of the split test, from the record as it is read back."""
    faces = ComparedFaces(manifest.select(split="test"), manifest)
    return faces.check(record)


FOLD_1, FOLD_2 = ["train", "train", "test", "test"], ["test", "test", "train", "val"]


def test_another_fold_after_training(root, tmp_path):
    write_record(training_faces(table(root / "bp4d", ".", FOLD_1)), tmp_path / "run")
    record = read_record(tmp_path / "run")
    found = check(record, table(root / "bp4d", ".", FOLD_1))
    assert (found.relation, found.unknown) == ("trained on", "")
    assert found.leaks == {"images": 0, "people": 0, "missing": 0}
    found = check(record, table(root / "bp4d", ".", FOLD_2))
    assert found.leaks == {"images": 2, "people": 2, "missing": 0}


@pytest.mark.parametrize(
    ("trained", "tested", "relation", "people"),
    [
        # The same data set, named from a folder above: its people count.
        (("", "bp4d", None), ("bp4d", ".", None), "trained on", 2),
        # Two data sets below one root, told apart by their units only.
        (("", "bp4d", "bp4d12"), ("", "disfa", "disfa8"), "zero-shot", 0),
        (("", "bp4d", None), ("", "disfa", None), "unknown", 2),
        # Two folders: people of one name are others, unless the units are those of one data set.
        (("bp4d", ".", None), ("disfa", ".", None), "zero-shot", 0),
        (("bp4d", ".", "bp4d12"), ("disfa", ".", "bp4d12"), "unknown", 2),
    ],
)
def test_data_sets(root, trained, tested, relation, people):
    record = training_faces(table(root / trained[0], trained[1], FOLD_1, trained[2]))
    found = check(record, table(root / tested[0], tested[1], FOLD_2, tested[2]))
    assert (found.relation, found.leaks["people"]) == (relation, people)


def test_a_copy_and_a_mixture(root):
    """A copy of the data set elsewhere is the same data set; a mixed manifest does not make two sets one."""
    shutil.copytree(root / "bp4d", root / "copy")
    record = training_faces(table(root / "bp4d", ".", FOLD_1))
    assert check(record, table(root / "copy", ".", FOLD_1)).relation == "trained on"
    bp4d, disfa = table(root, "bp4d", "train", "bp4d12").frame, table(root, "disfa", "test", "disfa8").frame
    mixed = Manifest(pd.concat([bp4d, disfa]), root)
    found = check(training_faces(mixed), mixed)
    assert (found.relation, found.leaks["people"]) == ("zero-shot", 0)


@pytest.mark.parametrize(
    ("trained", "tested", "leaks"),
    [
        ([0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.9], 2),
        ([0.0, 0.0, 8.0, 8.0], None, 2),
        (None, [0.0, 0.0, 8.0, 8.0], 2),
        ([0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 4.0, 8.0], 0),  # two faces of one image
    ],
)
def test_boxes(root, trained, tested, leaks):
    record = training_faces(table(root / "bp4d", ".", FOLD_1, box=[trained] * 4))
    assert check(record, table(root / "bp4d", ".", FOLD_2, box=[tested] * 4)).leaks["images"] == leaks


def test_images_that_cannot_be_compared(root):
    record = training_faces(table(root / "bp4d", ".", FOLD_1))
    path = root / "bp4d/F0/0.png"
    os.utime(path, (0, record["time"].iloc[0] + 10))
    # The newer image is the same one or another: an equal one counts.
    assert check(record, table(root / "bp4d", ".", FOLD_2)).leaks == {"images": 2, "people": 2, "missing": 1}
    for _ in ("changed", "missing"):
        found = check(record, table(root / "disfa", ".", FOLD_2))
        assert (found.relation, found.leaks["missing"]) == ("unknown", 1)
        assert "1 of 2 training images are missing or changed" in found.unknown
        path.unlink(missing_ok=True)


def test_the_models_that_training_started_from(root, tmp_path):
    """Their training faces count too; without their record, nothing is zero-shot."""
    first, second, third = (tmp_path / f"{name}/model" for name in ("first", "second", "third"))
    write_record(training_faces(table(root / "bp4d", ".", FOLD_1)), first.parent)
    write_record(training_faces(table(root / "disfa", ".", FOLD_1), init_from=first), second.parent)
    # A run that resumes on the same data has no face twice.
    checkpoint = second.parent / "last.ckpt"
    write_record(training_faces(table(root / "disfa", ".", FOLD_1), second, checkpoint), third.parent)
    record = read_record(third.parent)
    assert len(record) == 4
    assert check(record, table(root / "bp4d", ".", FOLD_2)).leaks["images"] == 2
    (first.parent / TRAINING_FACES).unlink()
    broken = training_faces(table(root / "disfa", ".", FOLD_1), init_from=first)
    found = check(broken, table(root / "bp4d", ".", FOLD_2))
    assert found.relation == "unknown" and f"the training faces of {first}" in found.unknown
    assert check(None, table(root / "bp4d", ".", FOLD_2)).relation == "unknown"


def test_validation_faces(root):
    manifest = table(root / "bp4d", ".", ["test", "val", "val", "val"])
    shutil.copy(root / "bp4d/F0/0.png", root / "bp4d/F1/2.png")
    kept = ComparedFaces(manifest.select(split="test"), manifest).without_shared(manifest.select(split="val"))
    # The second frame shows the person of the test face, the third is its image.
    assert list(kept.frame["image"]) == ["F1/3.png"]
