"""Tables of texts that were made elsewhere."""

import json
from pathlib import Path

import pandas as pd
import pytest

from explllm.core.errors import ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.explanations.quality import quality
from explllm.explanations.records import read_records, read_table, records
from explllm.explanations.rule_writer import RuleWriter

UNITS = [0.6 if unit in (11, 12) else 0.0 for unit in range(24)]
TEXT = RuleWriter().write(UNITS, Expression.HAPPINESS).text


def write(folder, rows):
    Manifest(pd.DataFrame(rows), folder).write(folder / "faces.parquet")
    return folder / "faces.parquet"


def test_rows_of_a_manifest(tmp_path):
    rows = [
        {"image": "a.jpg", "box": [0, 0, 9, 9], "cot": TEXT, "expression": "Happiness", "predicted": "happy"},
        {"image": "a.jpg", "box": [9, 0, 9, 9], "cot": TEXT, "expression": None, "predicted": "What a face!"},
        {"image": "b.jpg", "cot": None, "expression": "Fear", "predicted": None},
        {"image": "c.jpg", "cot": "  ", "expression": "Fear", "predicted": "Fear"},
    ]
    units = [UNITS, UNITS, None, None]
    for row, values in zip(rows, units, strict=True):
        row |= {"action_units": values, "action_units_missing": "Nose Wrinkle" if values else None}
    one, two = read_records(write(tmp_path, rows))
    assert (one.expression, one.predicted) == ("Happiness", "Happiness")
    assert (two.expression, two.predicted) == (None, None) and one.name != two.name
    assert one.action_units[11] == 0.6 and one.action_units[23] is None and one.reference is None
    assert len(read_table(tmp_path / "faces.parquet")) == 4


def test_a_run_folder(tmp_path):
    with pytest.raises(MissingPathError, match=r"does not contain predictions"):
        read_table(tmp_path)
    write(tmp_path, [{"image": "a.jpg", "cot": TEXT}]).rename(tmp_path / "predictions.parquet")
    [record] = read_records(tmp_path)
    assert record.text == TEXT


def test_a_released_list(reference_data):
    path = reference_data / "rafdb" / "rafdb_cot_first600.json"
    found = list(read_records(path))
    rows = json.loads(path.read_text())
    assert [one.text for one in found] == [row["description"] for row in rows]
    assert [str(one.expression) for one in found] == [row["emo"] for row in rows]
    assert [list(one.action_units) for one in found] == [row["au"] for row in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "a.jpg"}', "expected a JSON list of records"),
        ('["a.jpg"]', "expected a JSON list of records"),
        ("[", "invalid JSON"),
        ('[{"file_name": "a.jpg", "emo": "Joyless"}]', "row 1, column expression"),
        ('[{"file_name": "a.jpg", "description": "x"}, {"file_name": "a.jpg", "description": "y"}]', "duplicate cot"),
        ('[{"file_name": "a.jpg", "au": [1, 2]}]', "row 1, column action_units"),
    ],
)
def test_what_is_no_released_list(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_table(tmp_path / "list.json")


def test_labels_alone_are_no_texts(tmp_path):
    path = write(tmp_path, [{"image": "a.jpg", "expression": "Fear"}])
    assert list(records(read_table(path))) == []
    with pytest.raises(ManifestError, match="no row has a chain of thought"):
        list(read_records(path))
    with pytest.raises(MissingPathError, match="the file does not exist"):
        read_table(Path("none.json"))


def test_quality_says_what_has_no_label(tmp_path, explllm):
    """Of a text without a label all is measured that needs none; it was left out without a word."""
    rows = [
        {"image": f"{place}.jpg", "cot": text, "expression": label, "action_units": UNITS}
        for place, (text, label) in enumerate([(TEXT, "Happiness"), (TEXT + " on" * 130, None), (TEXT, "Fear")])
    ]
    path = write(tmp_path, rows)
    found = quality(read_records(path))
    assert (found.texts, found.unlabeled, found.grounded, found.over_limit) == (3, 1, 3, 1)
    assert (found.unnamed_label, found.only_another, found.other_verdict, found.sound) == (1, 1, 1, 1)
    assert "without a label" in explllm("cot", "check", path).out
