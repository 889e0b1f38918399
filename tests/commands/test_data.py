"""The command ``explllm data``."""

import re

import pytest

from explllm.cli import main
from explllm.core.manifest import Manifest


@pytest.fixture
def data(capsys):
    """Runs the command; returns what it printed to stdout and to stderr."""

    def run(*arguments):
        status = main(["data", *map(str, arguments)])
        printed = capsys.readouterr()
        assert status in (0, 2) and (status == 0) == ("error: " not in printed.err)
        return printed

    return run


def test_writes_a_manifest_and_says_what_is_in_it(publishers, data, tmp_path):
    root = publishers.rafdb(tmp_path / "basic")
    out = tmp_path / "rafdb.parquet"
    said = data("rafdb", root, "-o", out, "--images", "original", "--check-images")
    manifest = Manifest.read(out, root=root)
    assert len(manifest) == 5 and manifest.frame["box"][0] == [10.5, 5.0, 30.0, 30.0]
    assert all(manifest.image_path(row).is_file() for row in range(5))
    lines = said.out.splitlines()
    rows = {line.split()[1]: line.split()[3::2] for line in lines if line.startswith(("┃", "│"))}
    assert rows["expression"] == ["train", "test"] and rows["all"] == ["3", "2"]
    assert rows["Sadness"][0] == rows["Surprise"][0] == rows["Happiness"][0] == "1"
    assert lines[-2].split() == ["wrote", "5", str(out)] and lines[-1].endswith(f"--data.root {root}")
    assert said.err.startswith("warning: differs from the published counts (RAF-DB, Li et al., CVPR 2017): train 3 in")
    assert len(said.err.splitlines()) == 1


def test_images_beside_the_manifest(publishers, data, tmp_path):
    root = publishers.fer2013_csv(tmp_path / "fer2013")
    out = tmp_path / "written" / "fer.parquet"
    data("fer2013", root, "-o", out)
    manifest = Manifest.read(out)
    assert len(manifest) == 4 and all(manifest.image_path(row).is_file() for row in range(4))
    assert re.search("the manifest exists .*--overwrite", data("fer2013", root, "-o", out).err)
    data("fer2013", root, "-o", out, "--overwrite")


def test_bad_rows_are_reported_one_by_one(publishers, data, tmp_path, capsys):
    root = publishers.rafdb(tmp_path / "basic")
    with (root / "EmoLabel" / "list_patition_label.txt").open("a") as stream:
        stream.write("nonsense\nmore nonsense here\n")
    error = data("rafdb", root, "-o", tmp_path / "a.csv", "--max-bad", 1).err
    assert re.search(r"2 bad rows, last: .*line 7\].*--max_bad N .*\(now 1\)", error)
    assert not (tmp_path / "a.csv").exists()
    capsys.readouterr()
    said = data("rafdb", root, "-o", tmp_path / "a.csv", "--max-bad", 2)
    warnings = [line for line in said.err.splitlines() if line.startswith("warning: row ")]
    assert [line[:29] for line in warnings] == [f"warning: row {n} of at most 2 l" for n in (1, 2)]
    assert "bad              2   listed above" in said.out and len(Manifest.read(tmp_path / "a.csv")) == 5


def test_photographs_without_labels(publishers, data, tmp_path):
    publishers.image(tmp_path / "photos/a.jpg")
    said = data("folder", tmp_path / "photos", "-o", tmp_path / "photos.csv")
    assert list(Manifest.read(tmp_path / "photos.csv").frame["image"]) == ["a.jpg"]
    assert "note: 1 photographs without labels" in said.err and "wrote            1" in said.out


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("affectnet_arrays", ["affectnet", "--classes", "7"], 4),
        ("affectnet_lists", ["affectnet"], 3),
        ("affectnet_kaggle", ["affectnet"], 4),
        ("affectnet_words", ["affectnet"], 3),
        ("expw", ["expw", "--draw", "2", "--seed", "3"], 2),
        ("fer2013_folders", ["fer2013"], 3),
        ("ferplus_folders", ["fer2013", "--labels", "ferplus"], 2),
        ("cc3m_llava", ["cc3m"], 3),
        ("cc3m_shards", ["cc3m"], 3),
        ("feafa", ["feafa", "--fold", "2"], 10),
        ("disfa", ["disfa", "--fold", "1", "--threshold", "3"], 6),
        ("bp4d", ["bp4d", "--fold", "3"], 4),
        ("released", ["explllm", "--lists-only"], 3),
        ("fer2013_folders", ["folder", "--label-set", "fer2013"], 3),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_set_in_every_format(publishers, data, tmp_path, name, options, rows, ending):
    root = getattr(publishers, name)(tmp_path / "set")
    out = tmp_path / f"faces.{ending}"
    data(options[0], root, "-o", out, *options[1:])
    manifest = Manifest.read(out, root=out.parent if name == "cc3m_shards" else root)
    assert len(manifest) == rows
    for column in {"facs", "votes"} & set(manifest.frame):
        assert {type(cell) is str for cell in manifest.frame[column]} == {False}
        assert all(set(map(int, cell)) <= set(range(11)) for cell in manifest.frame[column])


def test_errors(publishers, data, tmp_path):
    root = publishers.expw(tmp_path / "expw")
    out = tmp_path / "faces.parquet"
    for arguments, error in (
        (["expw", root, "-o", tmp_path / "faces.xlsx"], "--out has the extension '.xlsx'"),
        (["expw", tmp_path / "nothing", "-o", out], "the folder does not exist"),
        (["expw", root, "-o", out, "--max-bad", "-1"], "--max_bad is -1. Use at least 0."),
        (["expw", root, "-o", out, "--check-images", "--lists-only"], "--check_images conflicts with --lists_only"),
        (
            ["expw", root, "-o", out, "--min-confidence", "100"],
            "--min_confidence is 100. Use at least 0 and below 100.",
        ),
        (["expw", root, "-o", out, "--min-confidence", "99.95"], "no row can be used; left out: 5 faces"),
        (["expv", root, "-o", out], "unknown command expv. Did you mean expw?"),
        (["expw", root], "no --out given"),
    ):
        assert error in data(*arguments).err
    with pytest.raises(SystemExit):
        data("--help")
