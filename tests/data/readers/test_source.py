import pytest

from explllm.core.errors import ConfigError, ManifestError
from explllm.data.readers.source import Source


def test_rows_have_the_same_columns(tmp_path):
    source = Source(tmp_path, images_exist=False)
    source.add("a.jpg", split="train")
    with pytest.raises(TypeError, match="columns"):
        source.add("b.jpg", split="train", identity="x")


def test_an_invalid_option_is_not_a_bad_row(tmp_path):
    source = Source(tmp_path, max_bad=9)
    with pytest.raises(ConfigError, match="wrong"), source.row(tmp_path, 1):
        raise ConfigError("wrong", remedy="Right it.")
    assert source.bad == []


def test_written_images_need_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="Pass a folder for them"), Source(tmp_path).written_images():
        pass


def test_files_of_another_encoding(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("name\nstra\u00dfe\n".encode("latin-1"))
    source = Source(tmp_path)
    for read in (source.lines, lambda path: source.table(path, "name")):
        with pytest.raises(ManifestError, match=r"the file is not UTF-8 text \[.*list.csv\]"):
            list(read(path))
    path.write_bytes(b"\xef\xbb\xbfname\n\nx\n")  # as Windows programs save it
    assert [(line, cells["name"]) for line, cells in source.table(path, "name")] == [(3, "x")]


def test_progress_of_nested_readers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("explllm.core.progress.REPORT_SECONDS", 0)
    source = Source(tmp_path)
    read = [outer + inner for outer in source.track("ab", 2) for inner in source.track("xy")]
    assert read == ["ax", "ay", "bx", "by"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"reading {tmp_path.name}: {done} of 2" for done in (1, 2)]
