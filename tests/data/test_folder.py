import csv

import cv2
import numpy as np
import pytest

from explllm.core.action_units import NAMES
from explllm.core.errors import InputError, ManifestError, MissingPathError, UnknownExpressionError
from explllm.core.expressions import LABEL_SETS
from explllm.data.datamodules import FolderFaces
from explllm.data.folder import read_folder, read_unsorted_folder


def make(root, *paths):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix:
            target.write_bytes(b"image")
        else:
            target.mkdir(exist_ok=True)


def write_units(root, rows, columns=24):
    with (root / "action_units.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", *(f"au{i}" for i in range(columns))])
        writer.writerows([[name, *values] for name, values in rows])


def test_split_layout(tmp_path):
    make(
        tmp_path,
        *("train/happy/b.JPG", "train/happy/a.png", "train/Anger/c.webp", "valid/sad/d.bmp", "test/joy/e.jpeg"),
        *("test/joy/notes.txt", "test/joy/.hidden.png", ".cache/f.png", "train/__MACOSX/happy.png"),
    )
    manifest = read_folder(tmp_path)
    assert manifest.root == tmp_path
    assert manifest.frame[["image", "expression", "split"]].to_numpy().tolist() == [
        ["test/joy/e.jpeg", "Happiness", "test"],
        ["train/Anger/c.webp", "Anger", "train"],
        ["train/happy/a.png", "Happiness", "train"],
        ["train/happy/b.JPG", "Happiness", "train"],
        ["valid/sad/d.bmp", "Sadness", "val"],
    ]
    assert "action_units" not in manifest.frame


@pytest.mark.parametrize(("split", "images"), [("train", 1), ("val", 2), ("valid", 2), (None, 3)])
def test_one_split(tmp_path, split, images):
    make(tmp_path, "train/happy/a.png", "val/happy/b.png", "val/sad/c.png")
    manifest = read_folder(tmp_path, split=split)
    assert len(manifest) == images
    if split is not None:
        assert set(manifest.frame["split"]) == {split.replace("valid", "val")}


def test_layout_without_splits(tmp_path):
    make(tmp_path, "happy/a.png", "fear/b.png")
    assert read_folder(tmp_path).frame["split"].tolist() == ["train", "train"]
    assert read_folder(tmp_path, split="test").frame["split"].tolist() == ["test", "test"]


def test_label_set_reads_numbers_and_limits_classes(tmp_path):
    make(tmp_path, "train/1/a.png", "train/4/b.png")
    frame = read_folder(tmp_path, label_set=LABEL_SETS["rafdb"]).frame
    assert frame["expression"].tolist() == ["Surprise", "Happiness"]
    make(tmp_path, "train/contempt/c.png")
    with pytest.raises(UnknownExpressionError, match=r"Contempt|contempt"):
        read_folder(tmp_path, label_set=LABEL_SETS["rafdb"])


def test_action_units_beside_the_images(tmp_path):
    make(tmp_path, "train/happy/a.png", "train/happy/b.png", "test/sad/c.png")
    write_units(tmp_path, [("train/happy/a.png", [0.5] * 24), ("test/sad/c.png", [0.25] * 24), ("gone.png", [0] * 24)])
    frame = read_folder(tmp_path).frame.set_index("image")
    assert frame.loc["train/happy/a.png", "action_units"] == [0.5] * 24
    assert frame.loc["test/sad/c.png", "action_units"] == [0.25] * 24
    assert frame.loc["train/happy/b.png", "action_units"] is None
    assert frame["action_units_source"].to_dict() == {
        "test/sad/c.png": "action_units.csv",
        "train/happy/a.png": "action_units.csv",
        "train/happy/b.png": None,
    }


def test_units_that_were_not_measured(tmp_path):
    """Empty cells and nan, and columns of zeros in a large table; rows without an image are listed."""
    make(tmp_path, *(f"happy/{number}.png" for number in range(120)))
    rows = [(f"happy/{number}.png", [0.5] * 22 + [number / 200, number / 5000]) for number in range(120)]
    rows[0][1][0], rows[1][1][1] = "", "NaN"
    write_units(tmp_path, [*rows, ("gone.png", [0] * 24)])
    notes = []
    frame = read_folder(tmp_path, note=notes.append).frame.set_index("image")
    assert frame.loc["happy/0.png", "action_units_missing"] == f"{NAMES[0]}, {NAMES[23]}"
    assert frame.loc["happy/1.png", "action_units_missing"] == f"{NAMES[1]}, {NAMES[23]}"
    assert frame.loc["happy/2.png", "action_units_missing"] == NAMES[23] == "Nose Wrinkle"
    assert notes == [
        f"{tmp_path}/action_units.csv: rows without an image in the folder: 1 (gone.png)",
        f"{tmp_path}/action_units.csv: below 0.05 in all 121 rows, treated as not measured: Nose Wrinkle",
    ]
    kept = read_folder(tmp_path, keep_zero_units=True, note=notes.append)
    assert kept.intensities_at(0)[0] is None and kept.intensities_at(0)[23] == 0.0
    # In a small table, a unit may be 0 by chance.
    write_units(tmp_path, rows[:99])
    assert read_folder(tmp_path, note=notes.append).frame["action_units_missing"].notna().sum() == 2


def test_numbered_class_folders_need_their_label_set(tmp_path):
    make(tmp_path, "train/1/a.png")
    with pytest.raises(UnknownExpressionError, match=r"'1' \[.*train/1\]\. Name the label set .*: --label_set, one of"):
        read_folder(tmp_path)
    data = FolderFaces(tmp_path, label_set="rafdb", fer_share=1)
    assert data.read().frame["expression"].tolist() == ["Surprise"]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_root(tmp_path):
    with pytest.raises(MissingPathError, match=r"the folder does not exist .*nowhere"):
        read_folder(tmp_path / "nowhere")


def test_no_class_folders(tmp_path):
    make(tmp_path, "a.png")
    with pytest.raises(InputError, match="no class folders") as error:
        read_folder(tmp_path)
    assert "root/{train,val,test}/<class>/" in one_line(error)
    make(tmp_path, "train")
    with pytest.raises(InputError, match=r"no class folders .*train"):
        read_folder(tmp_path)


def test_empty_class_folder_is_named(tmp_path):
    make(tmp_path, "train/happy/a.png", "train/fear/readme.txt")
    with pytest.raises(InputError, match="no images in the class folder fear") as error:
        read_folder(tmp_path)
    assert ".jpg" in one_line(error)


def test_unknown_class_folder_is_named_with_the_known_words(tmp_path):
    make(tmp_path, "train/happy/a.png", "train/hapyness/b.png")
    with pytest.raises(UnknownExpressionError, match="hapyness") as error:
        read_folder(tmp_path)
    assert "Happiness" in one_line(error)
    assert str(tmp_path / "train" / "hapyness") in one_line(error)


def test_missing_split_folder(tmp_path):
    make(tmp_path, "train/happy/a.png")
    with pytest.raises(MissingPathError, match=r"split test.*Use one of train"):
        read_folder(tmp_path, split="test")


def test_class_folders_beside_split_folders_are_refused(tmp_path):
    make(tmp_path, "train/happy/a.png", "sad/b.png", "models/c.png")
    with pytest.raises(InputError, match="class folder sad next to the split folder train"):
        read_folder(tmp_path)


def test_csv_with_wrong_columns(tmp_path):
    make(tmp_path, "train/happy/a.png")
    write_units(tmp_path, [("train/happy/a.png", [0.5] * 22)], columns=22)
    with pytest.raises(ManifestError, match=r"no column au22, au23 .*action_units.csv") as error:
        read_folder(tmp_path)
    assert "au0, ..., au23" in one_line(error)


def test_csv_that_is_ambiguous(tmp_path):
    make(tmp_path, "train/happy/a.png")
    names = ",".join(["file", *(f"au{number}" for number in range(24))])
    cells = ",".join(["train/happy/a.png", *["0.5"] * 24])
    for header, row, message in (
        (f"{names},au0", f"{cells},0.9", "two columns are named 'au0'"),
        (names, f"{cells},0.9", "26 cells, but the header has 25 .*line 2"),
        (names, cells.replace("a.png", "\u00fc.png"), "not a CSV table in UTF-8"),
    ):
        (tmp_path / "action_units.csv").write_bytes(f"{header}\n{row}\n".encode("latin-1"))
        with pytest.raises(ManifestError, match=message):
            read_folder(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("train/happy/a.png", [0.5] * 23 + [7])], r"intensity 7.0 of Nose Wrinkle .*line 2"),
        ([("train/happy/a.png", [0.5] * 23 + ["x"])], r"not a list of numbers .*line 2"),
        ([("train/happy/a.png", [0.5] * 23)], r"not a list of numbers .*line 2"),
        ([("train/happy/a.png", [0.5] * 24)] * 2, r"a second row of train/happy/a.png .*line 3"),
        ([("happy/a.png", [0.5] * 24)], r"no row matches an image .*train/happy/a.png"),
        ([], "no row matches an image"),
    ],
)
def test_csv_with_wrong_rows(tmp_path, rows, message):
    make(tmp_path, "train/happy/a.png")
    write_units(tmp_path, rows)
    with pytest.raises(ManifestError, match=message) as error:
        read_folder(tmp_path)
    one_line(error)


def test_real_faces(reference_data):
    manifest = read_folder(reference_data / "faces", label_set=LABEL_SETS["fer2013"])
    assert len(manifest) == 3978
    assert manifest.frame["split"].value_counts().to_dict() == {"train": 3322, "test": 656}
    assert manifest.frame["expression"].nunique() == 7
    assert manifest.frame["action_units"].notna().sum() == 3685
    assert set(manifest.frame["action_units_missing"].dropna()) == {"Jaw Thrust, Cheeks Puff, Nose Wrinkle"}
    smiling = manifest.frame["action_units"].dropna().map(lambda units: np.mean(units[11:13]))
    happy = manifest.frame.loc[smiling.index, "expression"] == "Happiness"
    assert smiling[happy].mean() > 2 * smiling[~happy].mean()
    assert cv2.imread(str(manifest.image_path(0))).shape == (224, 224, 3)


def test_unsorted_images_and_links(tmp_path):
    """Linked folders are read, each once, even if a link leads back to a parent."""
    make(
        tmp_path,
        "all/b.png",
        "all/deep/a.jpg",
        "all/.hidden/c.png",
        "all/__MACOSX/d.png",
        "other/e.png",
        "none/f/g.png",
    )
    (tmp_path / "all/deep/up").symlink_to(tmp_path / "all")
    (tmp_path / "all/also").symlink_to(tmp_path / "other")
    manifest = read_unsorted_folder(tmp_path / "all")
    assert manifest.root == tmp_path / "all"
    assert manifest.frame.to_dict("list") == {"image": ["also/e.png", "b.png", "deep/a.jpg"]}
    assert read_unsorted_folder(tmp_path / "none") is None and read_unsorted_folder(tmp_path / "absent") is None
