"""A damaged file of metrics costs nobody a run."""

import json

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
