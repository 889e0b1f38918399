"""A damaged file of metrics costs nobody a run."""

import json
import os

import pandas as pd
import pytest

from explllm.core.files import update_json


@pytest.mark.parametrize("content", [b'{"fit/loss": ', b"[1]", b"\xff{}"])
def test_a_damaged_file_is_kept_under_another_name(tmp_path, caplog, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    assert update_json(path, {"test/accuracy": 0.5}) == {"test/accuracy": 0.5} == json.loads(path.read_text())
    assert (tmp_path / "metrics.json.damaged").read_bytes() == content
    assert "metrics.json is damaged" in caplog.text


def test_an_evaluation_replaces_its_earlier_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    update_json(path, {"fit/loss": 1, "test/recall": {"Contempt": 0}, "test/accuracy": 0})
    assert update_json(path, {"test/accuracy": 1}, "test/") == {"fit/loss": 1, "test/accuracy": 1}
    assert json.loads(path.read_text()) == {"fit/loss": 1, "test/accuracy": 1}


def test_a_table_that_is_open_in_another_program_on_windows_is_written_beside_it(
    explllm, drawn_faces, tmp_path, monkeypatch
):
    replace = os.replace

    def locked(source, target):
        if os.fspath(target).endswith("out.csv"):
            raise PermissionError(13, "Permission denied", os.fspath(source), None, os.fspath(target))
        replace(source, target)

    (tmp_path / "out.csv").write_text("old")
    monkeypatch.setattr(os, "replace", locked)
    done = explllm("data", "folder", drawn_faces / "test", "-o", "out.csv", "--overwrite")
    kept = f"out.{os.getpid()}.csv"
    assert f"the manifest cannot be written (Permission denied; the new content is in {kept}) [out.csv]" in done.error
    assert (tmp_path / "out.csv").read_text() == "old" and len(pd.read_csv(kept)) == 27
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept, "out.csv"]
