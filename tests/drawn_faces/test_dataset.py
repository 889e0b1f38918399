import json
import shutil

import cv2
import numpy as np
import pytest

from explllm.core.errors import ConfigError, InputError
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.core.manifest import Manifest
from explllm.drawn_faces import dataset
from explllm.drawn_faces.dataset import draw_faces
from explllm.explanations.chain_of_thought import ChainOfThought

AFFECTNET8 = LABEL_SETS["affectnet8"]
FEW = {"train": 9, "val": 3, "test": 5, "size": 24}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    return draw_faces(folder, train=320, val=16, test=83, size=48, seed=3, label_set=AFFECTNET8)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manifest_holds_what_was_asked_for(drawn):
    frame = drawn.frame
    assert frame["split"].value_counts().to_dict() == {"train": 320, "val": 16, "test": 83}
    for _, rows in frame.groupby("split"):
        counts = rows["expression"].value_counts()
        assert len(counts) == 8
        assert counts.max() - counts.min() <= 1
    assert set(frame["action_units_source"]) == {"drawn"}
    assert set(frame["cot_source"]) == {"offline"}
    assert all(round(x, 4) == x for units in frame["action_units"] for x in units)
    again = Manifest.read(drawn.root / "manifest.parquet")
    assert again.frame.to_dict("records") == frame.to_dict("records")


def test_images_are_there_and_of_the_size(drawn):
    for i in range(0, len(drawn), 20):
        image = cv2.imread(str(drawn.image_path(i)))
        assert image.shape == (48, 48, 3)
        assert image.std() > 10
        assert drawn.frame["image"][i].startswith(drawn.frame["split"][i] + "/")
    assert len(list(drawn.root.rglob("*.png"))) == len(drawn)


def test_identities_are_disjoint_between_splits(drawn):
    people = {split: set(rows["identity"]) for split, rows in drawn.frame.groupby("split")}
    assert len(people["train"]) == 40
    assert not people["train"] & people["val"]
    assert not people["train"] & people["test"]
    assert not people["val"] & people["test"]
    # Names alone prove nothing: the first people of the splits must look different too.
    first = {s: cv2.imread(str(drawn.root / s / "00000-neutral.png")).astype(int) for s in people}
    assert np.abs(first["train"] - first["test"]).mean() > 10
    assert np.abs(first["train"] - first["val"]).mean() > 10


def test_chains_of_thought_fit_their_faces(drawn):
    for row in drawn.frame[::10].itertuples():
        assert ChainOfThought.parse(row.cot).check(Expression(row.expression)) == []


def test_expressions_are_distinguishable_in_unseen_people(drawn):
    def features(split):
        described = []
        for i in np.flatnonzero(drawn.frame["split"] == split):
            image = cv2.imread(str(drawn.image_path(int(i))), cv2.IMREAD_GRAYSCALE).astype(np.float32)
            edges = [cv2.Sobel(cv2.GaussianBlur(image, (0, 0), 1), cv2.CV_32F, x, 1 - x) for x in (0, 1)]
            parts = [
                cv2.resize(np.maximum(s * e, 0), (16, 16), interpolation=cv2.INTER_AREA) for e in edges for s in (1, -1)
            ]
            described.append(np.ravel(parts) / np.linalg.norm(parts))
        return np.stack(described)

    train, test = features("train"), features("test")
    middle = train.mean(0)
    train, test = train - middle, test - middle
    label = {split: rows["expression"].to_numpy() for split, rows in drawn.frame.groupby("split")}
    target = (label["train"][:, None] == np.array(list(Expression))).astype(float) - 1 / 8
    weights = np.linalg.solve(train @ train.T + 0.05 * np.eye(len(train)), target)
    predicted = np.array(list(Expression))[(test @ train.T @ weights).argmax(1)]
    # Chance is 1/8; this linear classifier of edges reached 0.6 where a small convolutional network reached 0.98.
    assert (predicted == label["test"]).mean() > 0.35


def test_same_settings_give_the_same_files_and_another_seed_others(tmp_path):
    one, two, other = (
        draw_faces(tmp_path / name, seed=seed, **FEW).root for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    first, second, third = content(one), content(two), content(other)
    assert first == second
    images = [path for path in first if path.suffix == ".png"]
    assert len(images) == 17
    assert all(first[path] != third[path] for path in images)


def test_more_faces_leave_the_first_ones_as_they_were(tmp_path):
    few, more = (draw_faces(tmp_path / str(n), train=n, val=0, test=0, size=24).root for n in (7, 9))
    assert content(few / "train").items() <= content(more / "train").items()


def test_classes_of_the_label_set_are_drawn(tmp_path):
    drawn = draw_faces(tmp_path / "faces", train=7, val=0, test=0, size=24, label_set=LABEL_SETS["fer2013"])
    assert sorted(drawn.frame["expression"]) == sorted(set(Expression) - {Expression.CONTEMPT})


def test_drawn_folder_is_used_again(tmp_path, monkeypatch):
    first = draw_faces(tmp_path / "faces", **FEW)
    before = {path: path.stat().st_mtime_ns for path in first.root.rglob("*")}
    monkeypatch.setattr(dataset, "draw_face", None)  # drawing anything would fail
    second = draw_faces(tmp_path / "faces", **FEW)
    assert second.frame.to_dict("records") == first.frame.to_dict("records")
    assert {path: path.stat().st_mtime_ns for path in first.root.rglob("*")} == before


def test_other_settings_replace_the_faces(tmp_path):
    draw_faces(tmp_path / "faces", **FEW)
    drawn = draw_faces(tmp_path / "faces", **(FEW | {"train": 2, "size": 32}))
    assert len(drawn) == len(list(drawn.root.rglob("*.png"))) == 10
    assert cv2.imread(str(drawn.image_path(0))).shape == (32, 32, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("already_drawn", [False, True])
def test_interrupted_drawing_leaves_nothing_half_written(tmp_path, monkeypatch, already_drawn):
    folder = tmp_path / "faces"
    if already_drawn:
        draw_faces(folder, **FEW)
    before = content(tmp_path)
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return np.zeros((24, 24, 3), np.uint8)

    monkeypatch.setattr(dataset, "draw_face", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_faces(folder, **(FEW | {"seed": 5}))
    assert len(calls) == 5
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["faces"] if already_drawn else [])


def test_lost_manifest_is_drawn_again(tmp_path):
    first = draw_faces(tmp_path / "faces", **FEW)
    (first.root / "manifest.parquet").unlink()
    shutil.rmtree(first.root / "test")
    again = draw_faces(tmp_path / "faces", **FEW)
    assert all(again.image_path(i).is_file() for i in range(len(again)))


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "faces").mkdir()
    assert len(draw_faces(tmp_path / "faces", **FEW)) == 17


@pytest.mark.parametrize("settings", [None, "{}", "no json", json.dumps({"made_by": "someone else"})])
def test_foreign_folder_is_left_alone(tmp_path, settings):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    if settings is not None:
        (folder / "drawn_faces.json").write_text(settings)
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"not drawn faces.*another folder"):
        draw_faces(folder, **FEW)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": -1}, "the number of train faces is -1"),
        ({"train": 0, "val": 0, "test": 0}, "no faces"),
        ({"size": 8}, "at least 16 pixels"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        draw_faces(tmp_path / "faces", **(FEW | change))
    assert list(tmp_path.iterdir()) == []


def test_two_machines_draw_the_same_faces(tmp_path, monkeypatch):
    """The faces of the machine that finishes first stay: it may be reading them."""
    draw_all, folders = dataset._draw_all, []

    def slow(*arguments):
        monkeypatch.setattr(dataset, "_draw_all", draw_all)
        draw_faces(tmp_path / "faces", **FEW)
        folders.append((tmp_path / "faces").stat().st_ino)
        draw_all(*arguments)

    monkeypatch.setattr(dataset, "_draw_all", slow)
    assert len(draw_faces(tmp_path / "faces", **FEW)) == 17
    assert [(tmp_path / "faces").stat().st_ino] == folders
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
