"""A manifest in chunks holds the same as the manifest in memory."""

import pandas as pd
import pytest

from explllm.core import manifest_chunks, manifest_files
from explllm.core.errors import ManifestError
from explllm.core.manifest import Manifest
from explllm.core.manifest_chunks import ManifestFile


@pytest.fixture
def frame():
    rows = 25
    return pd.DataFrame(
        {
            "image": [f"{row}.png" for row in range(rows)],
            "identity": ["007"] * rows,
            "expression": ["happy", None, "sad", "fear", "anger"] * 5,
            "box": [[row, 1.5, 10, 10] if row % 3 else None for row in range(rows)],
            "action_units": [[0.25] * 24 if row > 20 else None for row in range(rows)],
            # An integer that is missing in the first chunks only, and text that looks like numbers at first.
            "votes": [None if row < 10 else row for row in range(rows)],
            "version": ["1"] * 20 + ["1.10"] * 5,
        },
        dtype=object,
    )


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("target", ["parquet", "csv", "jsonl"])
def test_a_copy_in_chunks_is_the_copy_in_memory(frame, tmp_path, monkeypatch, suffix, target):
    path, copy, expected = tmp_path / f"m.{suffix}", tmp_path / f"copy.{target}", tmp_path / f"expected.{target}"
    Manifest(frame, tmp_path).write(path)
    for module in (manifest_chunks, manifest_files):
        monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    source = ManifestFile(path)
    assert [(row, len(chunk)) for row, chunk in source] == [(0, 7), (7, 7), (14, 7), (21, 4)]
    source.write(copy, lambda row, chunk: chunk.frame)
    Manifest.read(path).write(expected)
    first, second = (Manifest.read(one).frame.astype(object) for one in (copy, expected))
    pd.testing.assert_frame_equal(first.where(first.notna(), None), second.where(second.notna(), None))


def test_errors_name_the_row_of_the_file(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_chunks, "CHUNK_ROWS", 7)
    frame.at[15, "box"] = [1, 2, 3]
    frame.to_json(tmp_path / "m.jsonl", orient="records", lines=True)
    with pytest.raises(ManifestError, match="invalid box .*m.jsonl, row 16, column box"):
        list(ManifestFile(tmp_path / "m.jsonl"))
    for name in ("empty.jsonl", "empty.csv"):
        (tmp_path / name).touch()
        with pytest.raises(ManifestError):
            list(ManifestFile(tmp_path / name))


@pytest.mark.parametrize("first", ["", "faces/0.jpg,p0\n"])
def test_csv_rows_with_more_cells_than_the_header(tmp_path, first):
    path = tmp_path / "m.csv"
    path.write_text(f"image,identity\n{first}faces/1.jpg,p1,\n")
    _, chunk = list(ManifestFile(path))[-1]
    for manifest in (Manifest.read(path), chunk):
        assert list(manifest.frame.iloc[-1]) == ["faces/1.jpg", "p1"]
    path.write_text(f"image,identity\n{first}faces/1.jpg,p1,x\n")
    line = 3 if first else 2
    for read in (Manifest.read, lambda path: list(ManifestFile(path))):
        with pytest.raises(ManifestError, match=rf"3 cells, but the header has 2 \[.*m.csv, line {line}"):
            read(path)
