"""The manifest: three formats, whole files, errors with row numbers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from explllm.core import manifest_files
from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError, ManifestError, MissingPathError
from explllm.core.manifest import COLUMNS, REQUIRED, Manifest

FORMATS = [".parquet", ".csv", ".jsonl"]
UNITS = [round(number / 37, 12) for number in range(24)]


def _frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": ["a/1.jpg", "a/2.jpg", "a/2.jpg"],
            "expression": ["happy", None, "Neutral"],
            "split": ["train", "train", "test"],
            "identity": ["007", None, "NA"],
            "box": [[1, 2, 30.5, 40], [0, 0, 10, 10], None],
            "action_units": [UNITS, None, np.linspace(0, 1, 24)],
            "cot": ['Said "so", twice.\n\nÄ second paragraph, [with] a bracket.', None, "[not a list]"],
            "action_units_source": ["drawn", None, "drawn"],
            "cot_source": ["offline", None, "offline"],
            "probabilities": [[0.1, 0.9], [0.5, 0.5], [1.0, 0.0]],
            "score": [0.1 + 0.2, float("nan"), 1.0],
        }
    )


def _records(manifest: Manifest) -> list[dict]:
    records = manifest.frame.to_dict("records")
    for record in records:
        record["probabilities"] = [float(number) for number in record["probabilities"]]
        record["score"] = None if pd.isna(record["score"]) else record["score"]
    return records


@pytest.mark.parametrize("ending", FORMATS)
def test_round_trip_keeps_every_cell(tmp_path, ending):
    manifest = Manifest(_frame(), tmp_path)
    manifest.write(tmp_path / f"faces{ending}")
    copy = Manifest.read(tmp_path / f"faces{ending}")
    assert copy.root == tmp_path
    assert list(copy.frame.columns) == list(manifest.frame.columns)
    assert _records(copy) == _records(manifest)
    assert copy.frame["action_units"][0] == UNITS
    assert copy.frame["expression"].tolist() == ["Happiness", None, "Neutral"]
    assert copy.frame["identity"].tolist() == ["007", None, "NA"]


def test_formats_follow_each_other_without_loss(tmp_path):
    manifest = Manifest(_frame(), tmp_path)
    expected = _records(manifest)
    for ending in FORMATS:
        manifest.write(tmp_path / f"faces{ending}")
        manifest = Manifest.read(tmp_path / f"faces{ending}")
    assert _records(manifest) == expected


def test_image_alone_is_enough(tmp_path):
    manifest = Manifest(pd.DataFrame({"image": ["b.png"]}), tmp_path)
    assert len(manifest) == 1
    assert manifest.image_path(0) == tmp_path / "b.png"
    assert set(REQUIRED) <= set(COLUMNS)


def test_root_may_lie_elsewhere(tmp_path):
    Manifest(_frame(), tmp_path).write(tmp_path / "lists" / "faces.csv")
    manifest = Manifest.read(tmp_path / "lists" / "faces.csv", root=tmp_path / "images")
    assert manifest.image_path(1) == tmp_path / "images" / "a/2.jpg"


def test_select_numbers_the_rows_anew(tmp_path):
    test = Manifest(_frame(), tmp_path).select(split="test")
    assert len(test) == 1
    assert test.frame["expression"][0] == "Neutral"
    with pytest.raises(ManifestError, match=r"the split 'val' has no rows.*test, train"):
        Manifest(_frame(), tmp_path).select(split="val")


def test_require_names_all_that_is_missing(tmp_path):
    path = tmp_path / "faces.jsonl"
    Manifest(_frame().head(2).drop(columns=["box", "identity"]).assign(cot=None), tmp_path).write(path)
    manifest = Manifest.read(path)
    manifest.require("image", "expression", "action_units")
    with pytest.raises(ManifestError) as caught:
        manifest.require("image", "box", "cot")
    message = str(caught.value)
    assert "box, cot" in message
    assert "image" not in message.replace(str(path), "")
    assert str(path) in message
    assert "detect the faces" in message


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("expression", ["happy", "sad", "hungry"], "unknown expression 'hungry'"),
        ("expression", ["happy", "sad", 4], "unknown expression 4"),
        ("image", ["x", "y", None], "the cell is empty"),
        ("box", [None, None, [1, 2, 3]], "invalid box"),
        ("box", [None, None, [1, 2, 3, 0]], "invalid box"),
        ("box", [None, None, [1, 2, 3, float("nan")]], "invalid box"),
        ("box", [None, None, "1 2 3 4"], "is not a list"),
        ("box", [None, None, ["a", 2, 3, 4]], "not a number"),
        ("action_units", [None, None, [0.1] * 23], "expected 24 action units, got 23"),
        ("action_units", [None, None, [2.0] * 24], "is not in"),
        ("action_units", [None, None, 0.3], "is not a list"),
    ],
)
def test_a_bad_cell_is_named_with_its_row(tmp_path, column, cells, message):
    frame = pd.DataFrame({"image": ["a", "b", "c"]})
    frame[column] = pd.Series(cells, dtype=object)
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest(frame, tmp_path, tmp_path / "faces.csv")
    assert caught.value.where == f"{tmp_path / 'faces.csv'}, row 3, column {column}"
    assert "\n" not in str(caught.value)


def test_a_face_stands_once(tmp_path):
    frame = pd.DataFrame({"image": ["a", "b", "a"]})
    with pytest.raises(ManifestError, match=r"duplicate face: a is also in row 1 \[row 3"):
        Manifest(frame, tmp_path)
    frame["box"] = [[0, 0, 1, 1], None, [5, 5, 1, 1]]
    assert len(Manifest(frame, tmp_path)) == 3


def test_a_table_without_images_is_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"no column image among file.*action_units"):
        Manifest(pd.DataFrame({"file": ["a"]}), tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingPathError, match=r"the manifest does not exist \[.*absent\.csv"):
        Manifest.read(tmp_path / "absent.csv")
    with pytest.raises(MissingPathError, match=r"the manifest does not exist \[.*faces\]"):
        Manifest.read(tmp_path / "faces")
    (tmp_path / "faces.txt").touch()
    with pytest.raises(ManifestError, match=r"extension '.txt'.*\.parquet, \.csv, \.jsonl"):
        Manifest.read(tmp_path / "faces.txt")
    (tmp_path / "broken.jsonl").write_text('{"image": "a"}\n{"image": \n')
    with pytest.raises(ManifestError, match=r"broken\.jsonl, line 2"):
        Manifest.read(tmp_path / "broken.jsonl")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(ManifestError, match="expected a JSON object"):
        Manifest.read(tmp_path / "list.jsonl")
    for name in ("broken.parquet", "empty.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ManifestError, match="cannot be read"):
            Manifest.read(tmp_path / name)


@pytest.mark.parametrize("ending", FORMATS)
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, ending):
    path = tmp_path / f"faces{ending}"
    Manifest(_frame(), tmp_path).write(path)
    before = path.read_bytes()
    reader, writer = manifest_files.FORMATS[ending]

    def interrupted(parts: manifest_files.Chunks, partial: Path) -> None:
        writer(parts, partial)
        assert partial.parent == path.parent
        raise KeyboardInterrupt

    monkeypatch.setitem(manifest_files.FORMATS, ending, (reader, interrupted))
    with pytest.raises(KeyboardInterrupt):
        Manifest(_frame().head(1), tmp_path).write(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_write_checks_what_was_changed_meanwhile(tmp_path):
    manifest = Manifest(_frame(), tmp_path)
    manifest.frame.loc[1, "expression"] = "hungry"
    with pytest.raises(ManifestError, match="row 2, column expression"):
        manifest.write(tmp_path / "faces.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_given_frame_is_left_alone(tmp_path):
    frame = _frame()
    Manifest(frame, tmp_path)
    assert frame["expression"][0] == "happy"


def test_csv_holds_lists_as_json(tmp_path):
    Manifest(_frame(), tmp_path).write(tmp_path / "faces.csv")
    cell = pd.read_csv(tmp_path / "faces.csv", dtype=str)["action_units"][0]
    assert json.loads(cell) == UNITS


def test_real_records_make_a_manifest(tmp_path, reference_data):
    records = json.loads((reference_data / "rafdb/rafdb_cot_first600.json").read_text())
    frame = pd.DataFrame(records).rename(
        columns={"file_name": "image", "emo": "expression", "au": "action_units", "description": "cot"}
    )
    for ending in FORMATS:
        Manifest(frame, tmp_path).write(tmp_path / f"rafdb{ending}")
        copy = Manifest.read(tmp_path / f"rafdb{ending}")
        assert copy.frame["cot"].tolist() == frame["cot"].tolist()
        assert copy.frame["action_units"].tolist() == frame["action_units"].tolist()


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_units_that_were_not_measured_are_none(tmp_path, ending):
    frame = pd.DataFrame(
        {
            "image": ["a.jpg", "b.jpg", "c.jpg"],
            "action_units": [[0.5] * 24, [0.5] * 24, None],
            "action_units_missing": ["Jaw Thrust, Nose Wrinkle", None, "Jaw Drop"],
        }
    )
    Manifest(frame, tmp_path).write(tmp_path / f"faces{ending}")
    first, second, third = Manifest.read(tmp_path / f"faces{ending}").intensities()
    assert [NAMES[place] for place, value in enumerate(first) if value is None] == ["Jaw Thrust", "Nose Wrinkle"]
    assert second == [0.5] * 24 and third is None


def test_a_missing_unit_of_no_such_name(tmp_path):
    frame = pd.DataFrame(
        {"image": ["a.jpg"], "action_units": [[0.5] * 24], "action_units_missing": ["Jaw Thrust, Ears"]}
    )
    with pytest.raises(ManifestError, match=r"unknown action unit 'Ears' .row 1, column action_units_missing"):
        Manifest(frame, tmp_path)


@pytest.mark.parametrize("rows", [0, 5])
def test_parquet_is_written_in_parts_with_the_types_of_the_whole(tmp_path, monkeypatch, rows):
    """A column may be empty in the first part, and hold numbers with gaps, lists or dates in the next."""
    frame = pd.DataFrame(
        {
            "image": [f"{row}.jpg" for row in range(5)],
            "action_units": [None, None, UNITS, None, UNITS],
            "cot": [None, None, None, "a text", None],
            "cot_rounds": pd.array([None, None, 1, 2, None], dtype="Int64"),
            "p": [np.nan, np.nan, 0.5, 1.0, np.nan],
            "seen": pd.to_datetime(["2024-01-01"] * 5),
            "further": [None, None, None, [[1.0], [2.0, 3.0]], None],
        }
    ).iloc[:rows]
    Manifest(frame, tmp_path).frame.to_parquet(tmp_path / "whole.parquet", index=False)
    monkeypatch.setattr(manifest_files, "CHUNK_ROWS", 2)
    Manifest(frame, tmp_path).write(tmp_path / "parts.parquet")
    whole, parts = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(whole, parts)
    assert Manifest.read(tmp_path / "parts.parquet").frame.shape == (rows, 7)


@pytest.mark.parametrize("ending", FORMATS)
def test_columns_are_added_while_it_is_written(tmp_path, monkeypatch, ending):
    """Rows are numbered through all parts, and a column may be empty in the first of them."""
    monkeypatch.setattr(manifest_files, "CHUNK_ROWS", 2)

    def finish(part):
        texts = [None if row < 3 else f"text, {row}" for row in part.index]
        return part.assign(cot=pd.Series(texts, index=part.index, dtype=object), number=part.index * 2)

    table = Manifest(pd.DataFrame({"image": [f"{row}.jpg" for row in range(5)]}), tmp_path)
    table.write(tmp_path / f"made{ending}", finish)
    made = Manifest.read(tmp_path / f"made{ending}").frame
    assert made["cot"].tolist() == [None, None, None, "text, 3", "text, 4"]
    assert made["number"].tolist() == [0, 2, 4, 6, 8]
    assert table.frame.columns.tolist() == ["image"]


def test_a_row_that_is_as_it_should_be_is_not_copied(tmp_path):
    units = [float(unit) for unit in UNITS]
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "action_units": [units, [1, *units[1:]]]})
    first, second = Manifest(frame, tmp_path).frame["action_units"]
    assert first is units
    assert second == [1.0, *units[1:]] and type(second[0]) is float


def test_the_intensities_of_one_row_are_those_of_all(tmp_path):
    frame = _frame().assign(action_units_missing=["Jaw Thrust, Nose Wrinkle", None, "Jaw Drop"])
    for table in (frame, frame.drop(columns="action_units_missing"), frame.drop(columns="action_units")):
        manifest = Manifest(table, tmp_path)
        assert [manifest.intensities_at(row) for row in range(3)] == list(manifest.intensities())
    assert Manifest(frame, tmp_path).intensities_at(0)[NAMES.index("Jaw Thrust")] is None


def test_rows_in_which_no_face_was_found(tmp_path):
    """A row that nobody looked for a face in is a face; one that has a box has one."""
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg", "c.jpg"]})
    assert Manifest(frame, tmp_path).face_not_found() == [False] * 3
    frame["face_status"] = [None, "found", "no face found"]
    frame["box"] = [None, [0, 0, 9, 9], None]
    assert Manifest(frame, tmp_path).face_not_found() == [False, False, True]
    assert Manifest(frame.drop(columns="face_status"), tmp_path).face_not_found() == [False] * 3
    assert Manifest(frame.drop(columns="box"), tmp_path).face_not_found() == [False, True, True]


@pytest.mark.parametrize("ending", FORMATS)
def test_further_columns_are_carried_along(tmp_path, ending):
    """Whatever a table holds besides is none of our business, and comes out as it went in."""
    rows = [
        '{"image": "a.jpg", "id": "007", "number": 1000, "big": 1234567890123456789, "rate": 0.5, "truth": true, '
        '"note": null}',
        '{"image": "b.jpg", "id": "12", "number": null, "big": null, "rate": null, "truth": null, "note": "x"}',
    ]
    texts = {
        ".csv": "image,id,number,big,rate,truth,note\na.jpg,007,1000,1234567890123456789,0.5,True,\nb.jpg,12,,,,,x\n",
        ".jsonl": "".join(f"{row}\n" for row in rows),
    }
    path = tmp_path / f"given{ending}"
    if ending == ".parquet":
        columns = {"image": ["a.jpg", "b.jpg"], "id": ["007", "12"], "number": [1000, None]}
        columns |= {"big": [1234567890123456789, None], "rate": [0.5, None], "truth": [True, None], "note": [None, "x"]}
        pq.write_table(pa.table(columns), path)  # as others write it, without pandas' notes
    else:
        path.write_text(texts[ending])
    for other in FORMATS:
        Manifest.read(path).write(tmp_path / f"made{other}")
        made = Manifest.read(tmp_path / f"made{other}").frame.astype(object)
        made = made.where(made.notna(), None)
        assert made["id"].tolist() == ["007", "12"] and made["number"].tolist() == [1000, None]
        assert made["number"].map(type).iloc[0] is int
        assert [None if cell is None else int(cell) for cell in made["big"]] == [1234567890123456789, None]
        assert made["rate"].tolist() == [0.5, None] and made["truth"].tolist() == [True, None]
        assert made["note"].tolist() == [None, "x"]
    if ending != ".parquet":
        Manifest.read(path).write(tmp_path / f"again{ending}")
        assert (tmp_path / f"again{ending}").read_text() == texts[ending]


def test_numbers_that_python_would_write_otherwise_stay_text(tmp_path):
    cells = {"phone": "+49151", "version": "1.10", "plate": "12E45", "price": "0.5", "small": "1e-05", "zero": "-0"}
    (tmp_path / "m.csv").write_text(f"image,{','.join(cells)}\na.jpg,{','.join(cells.values())}\n")
    Manifest.read(tmp_path / "m.csv").write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "m.csv").read_text()
    frame = Manifest.read(tmp_path / "m.csv").frame
    assert [name for name in cells if frame[name].dtype == float] == ["price", "small"]


def test_half_a_character_is_named_and_not_repeated(tmp_path):
    table = Manifest(pd.DataFrame({"image": ["a.jpg"], "cot": ["x" * 3000 + "\ud83d"]}, dtype=object), tmp_path)
    for ending in FORMATS:
        with pytest.raises(ManifestError, match="lone surrogate") as caught:
            table.write(tmp_path / f"made{ending}")
        assert len(caught.value.found) < 100


def test_an_index_with_a_name_is_a_column(tmp_path):
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "face_id": [7, 9]})
    frame.set_index("face_id").to_parquet(tmp_path / "one.parquet")
    assert Manifest.read(tmp_path / "one.parquet").frame["face_id"].tolist() == [7, 9]
    frame.set_index("image").to_parquet(tmp_path / "other.parquet")
    assert Manifest.read(tmp_path / "other.parquet").frame["image"].tolist() == ["a.jpg", "b.jpg"]


def test_times_are_text_in_json(tmp_path):
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "seen": pd.to_datetime(["2024-01-02 03:04", None])})
    Manifest(frame, tmp_path).write(tmp_path / "made.jsonl")
    assert Manifest.read(tmp_path / "made.jsonl").frame["seen"].dropna().tolist() == ["2024-01-02T03:04:00"]


@pytest.mark.parametrize("cells", [[1, "s4"], [2**70, 1], [{"a": 1}, {"a": "b"}]])
def test_a_column_that_the_format_cannot_hold(tmp_path, monkeypatch, cells):
    table = Manifest(pd.DataFrame({"image": ["a.jpg", "b.jpg"], "subject": cells}), tmp_path)
    for rows in (1000, 1):
        monkeypatch.setattr(manifest_files, "CHUNK_ROWS", rows)
        with pytest.raises(ManifestError, match=r".parquet cannot represent the table .* \.jsonl"):
            table.check_writable(tmp_path / "made.parquet")
    table.check_writable(tmp_path / "deeper/made.jsonl")
    assert [path.name for path in tmp_path.rglob("*")] == ["deeper"]


def test_a_place_that_takes_no_file(tmp_path):
    table = Manifest(_frame(), tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a file, found a folder"):
        table.check_writable(tmp_path / "folder.csv")
    with pytest.raises(ConfigError, match="the file cannot be written"):
        table.check_writable(tmp_path / "file/faces.csv")
    with pytest.raises(ManifestError, match="cannot be written .*(directory|exists)"):
        table.write(tmp_path / "file/faces.csv")
