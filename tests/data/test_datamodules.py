"""Sources of faces, and the loaders that a Trainer gets from them."""

import shutil
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from explllm.core.errors import ConfigError, ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.datamodules import DrawnFaces, FolderFaces, ManifestFaces
from explllm.data.dataset import EXPRESSION_NUMBER
from explllm.data.face_data_module import FaceDataModule
from explllm.data.transforms import Augment, ReleasedAugment
from explllm.faces.pixels import IMAGE_PRESETS
from explllm.models.build import NetworkSettings, build

SIZES = {"train": 56, "val": 14, "test": 27, "size": 64}


@pytest.fixture
def drawn(drawn_faces):
    return lambda **settings: DrawnFaces(drawn_faces, **SIZES, **settings)


def test_an_epoch_of_training(ready, drawn, answers, drawn_faces):
    """3 FER and 1 CoT conversation per face; each answer is that of its face."""
    data = ready(drawn(batch_size=16, micro_batch_size=8))
    assert data.trainer.accumulate_grad_batches == 2
    frame, kinds, seen = data.frame(), Counter(), Counter()
    for batch in data.train_dataloader():
        assert batch["pixel_values"].shape == (8, 3, 64, 64) and bool(batch["readable"].all())
        assert batch["unreadable"] == []
        for row, number, answer in zip(
            batch["rows"].tolist(), batch["expressions"].tolist(), answers(batch), strict=True
        ):
            label = frame.at[row, "expression"]
            assert EXPRESSION_NUMBER[Expression(label)] == number
            assert frame.at[row, "split"] == "train"
            kind = "fer" if answer.strip() == label else "cot"
            kinds[kind] += 1
            seen[row] += 1
            assert answer.strip().startswith(label)
            assert kind == "fer" or "Conclusion" in answer
    assert kinds == {"fer": 168, "cot": 56}
    assert set(seen.values()) == {4} and len(seen) == 56
    # Without augmentation the pixels are those of the file.
    batch = next(iter(data.train_dataloader()))
    image = IMAGE_PRESETS["small"](drawn_faces / frame.at[int(batch["rows"][0]), "image"])
    assert torch.equal(batch["pixel_values"][0], image)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_faces(ready, drawn, world):
    rows = []
    for rank in range(world):
        data = ready(
            drawn(eval_batch_size=5, batch_size=12, micro_batch_size=4), "test", global_rank=rank, world_size=world
        )
        batches = [batch["rows"].tolist() for batch in data.test_dataloader()]
        assert len(batches) == {1: 6, 2: 3, 3: 2}[world]  # batches of 5 from 27, 14 and 9 faces
        rows += [row for batch in batches for row in batch]
    frame = data.frame("test")
    assert sorted(row for row in rows if row >= 0) == list(frame.index)
    assert len(rows) == {1: 27, 2: 28, 3: 27}[world]


def test_more_ranks_than_faces(ready, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    Manifest(frame[frame["split"] == "test"].head(1), drawn_faces).write(tmp_path / "one.parquet")
    data = ready(ManifestFaces(tmp_path / "one.parquet", drawn_faces), "test", global_rank=1, world_size=2)
    [batch] = data.test_dataloader()
    assert batch["rows"].tolist() == [-1]


def test_augmentation_is_for_training_alone(ready, drawn):
    plain, changed = (
        ready(drawn(batch_size=8, micro_batch_size=8)),
        ready(drawn(batch_size=8, micro_batch_size=8, augment=Augment())),
    )
    one, other = (next(iter(data.train_dataloader()))["pixel_values"] for data in (plain, changed))
    assert (one - other).abs().mean() > 0.05
    one, other = (next(iter(data.val_dataloader()))["pixel_values"] for data in (plain, changed))
    assert torch.equal(one, other)
    again = next(iter(ready(drawn(batch_size=8, micro_batch_size=8, augment=Augment())).train_dataloader()))
    assert torch.equal(again["pixel_values"], next(iter(changed.train_dataloader()))["pixel_values"])


def test_captions(ready, drawn, answers):
    data = ready(drawn(conversations="captions", batch_size=8, micro_batch_size=8))
    assert data.trainer.limit_val_batches == 0
    batch = next(iter(data.train_dataloader()))
    said = answers(batch)
    for row, answer in zip(batch["rows"].tolist(), said, strict=True):
        assert answer.strip() == data.frame().at[row, "caption"]
        assert "Conclusion" not in answer and len(answer) > 40


def test_validation_without_validation_faces(ready, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    Manifest(frame[frame["split"] != "val"], drawn_faces).write(tmp_path / "table.parquet")
    table = (tmp_path / "table.parquet", drawn_faces)
    assert ready(ManifestFaces(*table)).trainer.limit_val_batches == 0
    with pytest.raises(
        ManifestError,
        match=r"the `val` split has no rows \(rows: train 56, test 27\) \[.*table.parquet\].*`data.val_fraction`",
    ):
        ready(ManifestFaces(*table), "validate").val_dataloader()
    # There is no setting that holds out test faces of a manifest.
    Manifest(frame[frame["split"] != "test"], drawn_faces).write(tmp_path / "untested.parquet")
    with pytest.raises(ManifestError, match=r"Set the column `split` of some rows to `test`\.$"):
        ready(ManifestFaces(tmp_path / "untested.parquet", drawn_faces), "test").test_dataloader()
    data = ready(ManifestFaces(*table, val_fraction=0.25))
    assert data.trainer.limit_val_batches == 1.0
    people = {split: set(data.frame(split)["identity"]) for split in ("train", "val", "test")}
    assert len(people["val"]) == 2 and not people["val"] & people["train"]


def test_shuffled_labels(ready, drawn):
    plain, data = ready(drawn()), ready(drawn(shuffle_labels=True))
    one, other = plain.frame("train"), data.frame("train")
    assert Counter(one["expression"]) == Counter(other["expression"])
    assert 0 < (one["expression"] == other["expression"]).mean() < 0.4
    assert plain.frame("test").equals(data.frame("test"))
    # The texts say the shuffled label, not the true one.
    assert all(row.cot.rpartition("Conclusion")[2].lower().count(row.expression.lower()) for row in other.itertuples())
    assert (
        "The training labels were shuffled." in data.training_data_note and "shuffled" not in plain.training_data_note
    )


def test_training_data_note(ready, drawn, drawn_faces, tmp_path):
    assert "drawn by a program, not photographs" in ready(drawn()).training_data_note
    assert "written by rules" in ready(drawn()).training_data_note
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    frame = frame.assign(action_units_source="a detector", cot_source="gpt-4o")
    Manifest(frame, drawn_faces).write(tmp_path / "table.parquet")
    assert ready(ManifestFaces(tmp_path / "table.parquet", drawn_faces)).training_data_note == ""


@pytest.fixture
def sorted_faces(drawn_faces, tmp_path):
    """Seven classes of eight faces, without split folders."""
    for path in (drawn_faces / "train").glob("*.png"):
        (tmp_path / "sorted" / path.stem.split("-")[1]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "sorted" / path.stem.split("-")[1])
    return tmp_path / "sorted"


def test_folder_faces_hold_out(ready, sorted_faces):
    data = ready(FolderFaces(sorted_faces, test_fraction=0.25, val_fraction=0.17, fer_share=1))
    counts = {split: Counter(data.frame(split)["expression"]) for split in ("train", "val", "test")}
    assert set(counts["test"].values()) == {2} and set(counts["val"].values()) == {1}
    assert set(counts["train"].values()) == {5} and len(counts["train"]) == 7
    again = ready(FolderFaces(sorted_faces, test_fraction=0.25, val_fraction=0.17, fer_share=1))
    assert again.frame().equals(data.frame())


def test_a_test_folder_is_the_test(ready, sorted_faces, tmp_path):
    sorted_faces.rename(tmp_path / "train")
    (tmp_path / "faces").mkdir()
    shutil.copytree(tmp_path / "train", tmp_path / "faces/train")
    shutil.copytree(tmp_path / "train/fear", tmp_path / "faces/test/fear")
    data = ready(FolderFaces(tmp_path / "faces", test_fraction=0.25, fer_share=1))
    assert Counter(data.frame()["split"]) == {"train": 56, "test": 8}


def test_predicting_needs_neither_labels_nor_splits(ready, sorted_faces, drawn_faces, tmp_path):
    data = ready(FolderFaces(sorted_faces), "predict")
    batch = next(iter(data.predict_dataloader()))
    assert sorted(set(batch["expressions"].tolist())) == list(range(7))
    # One image beside the class folders: nothing is sorted, everything is taken.
    shutil.copy(next(sorted_faces.rglob("*.png")), sorted_faces / "Portrait.PNG")
    data = ready(FolderFaces(sorted_faces), "predict")
    assert list(data.frame().columns) == ["image"] and len(data.frame()) == 57
    assert next(iter(data.predict_dataloader()))["expressions"].tolist() == [-1] * 57
    assert len(ready(FolderFaces(sorted_faces, fer_share=1)).frame()) == 56  # to learn from, only what is sorted

    images = Manifest.read(drawn_faces / "manifest.parquet").frame[["image"]]
    Manifest(images, drawn_faces).write(tmp_path / "images.csv")
    data = ready(ManifestFaces(tmp_path / "images.csv", drawn_faces), "predict")
    assert sum(len(batch["rows"]) for batch in data.predict_dataloader()) == 97
    for stage in ("fit", "validate", "test"):
        with pytest.raises(ManifestError, match="no values in the columns split, expression"):
            ready(ManifestFaces(tmp_path / "images.csv", drawn_faces), stage)


def test_images_without_a_face_are_reported(ready, drawn_faces, tmp_path, caplog):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    frame["box"] = [[10, 10, 60, 60]] * len(frame)
    frame["face_status"] = "found"
    Manifest(frame, drawn_faces).write(tmp_path / "table.parquet")
    ready(ManifestFaces(tmp_path / "table.parquet", drawn_faces))
    assert not caplog.messages
    frame.loc[[0, 60], "box"], frame.loc[[0, 60], "face_status"] = None, "no face found"
    Manifest(frame, drawn_faces).write(tmp_path / "table.parquet")
    data = ready(ManifestFaces(tmp_path / "table.parquet", drawn_faces))
    assert f"no face was found in 2 of {len(frame)} images; they are used whole" in " ".join(caplog.messages)
    assert data.face(0) == data.manifest.image_path(0) and data.face(1).size == (72, 72)


def test_rows_without_a_label(ready, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    frame.loc[[0, 60, 90], "expression"] = None
    Manifest(frame, drawn_faces).write(tmp_path / "table.parquet")
    data = ready(ManifestFaces(tmp_path / "table.parquet", drawn_faces, batch_size=20, micro_batch_size=20))
    trained = {row for batch in data.train_dataloader() for row in batch["rows"].tolist()}
    assert trained == set(range(56)) - {0}
    with pytest.raises(ManifestError, match=r"row 90 of the split `test` has no expression .*use `explllm predict`"):
        data.test_dataloader()


def test_rows_with_action_units_alone(ready, drawn_faces, tmp_path):
    """Rows such as BP4D's, without an expression: trained on by unit states, and left out of validation."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    unlabeled = frame.assign(expression=None, cot=None)
    settings = {"batch_size": 28, "micro_batch_size": 28, "mixture": {"unit_state": 1}}
    for name, table in (("none", unlabeled), ("some", pd.concat([frame[:60], unlabeled[60:]]))):
        Manifest(table, drawn_faces).write(tmp_path / f"{name}.parquet")
        data = ready(ManifestFaces(tmp_path / f"{name}.parquet", drawn_faces, **settings))
        assert (data.trainer.limit_val_batches == 0) == (name == "none")
        rows = {row for batch in data.train_dataloader() for row in batch["rows"].tolist()}
        assert rows == set(frame.index[frame["split"] == "train"])
    validated = [row for batch in data.val_dataloader() for row in batch["rows"].tolist()]
    assert validated == [row for row in frame.index[frame["split"] == "val"] if row < 60]
    with pytest.raises(ManifestError, match="no values in the column expression"):
        ready(ManifestFaces(tmp_path / "none.parquet", drawn_faces, mixture={"unit_state": 1, "fer": 1}))


def test_the_image_cache_keeps_to_its_limit(ready, drawn):
    data = ready(drawn(batch_size=8, micro_batch_size=8, cache_megabytes=0.1))  # 8 images of 64 x 64 x 3
    first = [batch["pixel_values"] for batch in data.train_dataloader()]
    assert len(data.images().images) == 8
    again = [batch["pixel_values"] for batch in data.train_dataloader()]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    data = ready(drawn(batch_size=8, micro_batch_size=8, cache_megabytes=0))
    assert torch.equal(next(iter(data.train_dataloader()))["pixel_values"], first[0])
    assert data.images().images == {}


def test_errors(ready, drawn, drawn_faces, tmp_path):
    with pytest.raises(
        ConfigError, match="`data.batch_size` 48 is not a multiple of `data.micro_batch_size` 16 x 2 devices"
    ):
        ready(drawn(batch_size=48), world_size=2)
    with pytest.raises(MissingPathError, match="the folder does not exist"):
        ready(FolderFaces(tmp_path / "none"))
    with pytest.raises(MissingPathError, match="the folder does not exist"):
        ready(FolderFaces(tmp_path / "none"), "predict")
    with pytest.raises(ManifestError, match=r"the manifest has no rows \[.*empty.csv\]"):
        (tmp_path / "empty.csv").write_text("image,split,expression\n")
        ready(ManifestFaces(tmp_path / "empty.csv"))
    with pytest.raises(TypeError, match=r"override read\(\)"):
        FaceDataModule().setup()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", -4),
        ("micro_batch_size", 0),
        ("eval_batch_size", 0),
        ("num_workers", -1),
        ("cache_megabytes", float("inf")),
        ("max_unreadable", -1),
        ("seed", -1),
        ("fer_share", 1.5),
        ("val_fraction", 1.0),
        ("margin", -0.5),
        ("test_fraction", 1.5),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(setting, value):
    with pytest.raises(ConfigError, match=rf"`data.{setting}` is {value}\. Use "):
        FolderFaces("faces", **{setting: value})


def test_alone_in_a_notebook(drawn):
    """No Trainer, no LightningModule: the model is passed in."""
    model = build(NetworkSettings(preset="tiny", labels="rafdb"))
    data = drawn(batch_size=8, micro_batch_size=4)
    with pytest.raises(ConfigError, match=r"Call `data.prepare_for\(model\)`"):
        data.test_dataloader()
    data.prepare_for(SimpleNamespace(image=IMAGE_PRESETS["small"]))
    with pytest.raises(ConfigError, match="DrawnFaces needs a model with a tokenizer"):
        data.train_dataloader()
    data.prepare_for(model)
    batch = next(iter(data.train_dataloader()))
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")}
    assert batch["pixel_values"].shape == (4, 3, 64, 64) and model(**inputs).loss.isfinite()
    assert sum(len(batch["rows"]) for batch in data.test_dataloader()) == 27
    again = drawn()
    again.prepare_for(model)
    assert sum(len(batch["rows"]) for batch in again.predict_dataloader()) == 97


@pytest.mark.parametrize(
    ("method", "augment"),
    [("spawn", Augment), pytest.param("forkserver", ReleasedAugment, marks=pytest.mark.slow)],
)
def test_workers_of_every_start_method(ready, drawn, method, augment):
    """Batches are equal to those of the main process, augmentation included."""
    settings = {"batch_size": 16, "micro_batch_size": 16, "augment": augment()}
    data = ready(drawn(num_workers=1, **settings))
    data.images()[0]  # cached images stay in this process
    loader = data.train_dataloader()
    loader.multiprocessing_context = method
    expected = next(iter(ready(drawn(**settings)).train_dataloader()))
    batch = next(iter(loader))
    assert all(torch.equal(batch[name], expected[name]) for name in ("pixel_values", "input_ids", "rows"))


def test_classes_are_balanced_in_batches(ready, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    frame = frame[frame["split"] == "train"]
    rare = frame[frame["expression"] == "Fear"].index[1:]
    Manifest(frame.drop(index=rare), drawn_faces).write(tmp_path / "table.parquet")

    def share(balance):
        table = (tmp_path / "table.parquet", drawn_faces)
        data = ready(ManifestFaces(*table, class_balance=balance, fer_share=1, batch_size=49, micro_batch_size=49))
        batch = next(iter(data.train_dataloader()))
        return (batch["expressions"] == EXPRESSION_NUMBER[Expression.FEAR]).sum().item()

    assert (share("none"), share("sqrt"), share("uniform")) == (1, 3, 7)


def test_one_seed_unless_the_data_has_its_own(ready, drawn, monkeypatch):
    def order(**settings):
        data = ready(drawn(batch_size=56, micro_batch_size=56, **settings))
        return next(iter(data.train_dataloader()))["rows"].tolist()

    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert order() == order(seed=5) != order(seed=6)
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert order() == order(seed=6)
    assert drawn().read().frame.equals(drawn(seed=5).read().frame)  # the drawn faces are the same in all runs
