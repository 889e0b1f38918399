import pytest

from explllm.core.errors import ConfigError, InputError, MissingPathError


def test_frames_with_their_units(publishers, read, cells, tmp_path):
    reading = read("feafa", publishers.feafa(tmp_path, people=2))
    assert cells(reading, "image", "split", "identity", "action_units", "action_units_source") == [
        (f"P{person}/seq1/000{frame}.jpg", "train", f"P{person}", [person / 10] * 24, "FEAFA's annotators")
        for person in (1, 2)
        for frame in (0, 1)
    ]
    assert "rows 4 instead of 99,356" in reading.differences[0]


def test_folds_keep_people_together(publishers, read, tmp_path):
    root = publishers.feafa(tmp_path, people=7)
    tested = []
    for fold in (1, 2, 3):
        frame = read("feafa", root, fold=fold, folds=3).manifest.frame
        test = set(frame["identity"][frame["split"] == "test"])
        assert len(frame) == 14 and frame.groupby("identity")["split"].nunique().max() == 1
        assert frame["identity"][frame["split"] == "val"].nunique() == 1
        tested += sorted(test)
    assert sorted(tested) == [f"P{person}" for person in range(1, 8)]
    other = read("feafa", root, fold=1, folds=3, seed=1).manifest.frame
    assert set(other["identity"][other["split"] == "test"]) != set(tested[:3])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("0.5 " * 23, "expected 24 action units, got 23"),
        ("1.5 " * 24, r"1.5 of Left Eye Close"),
        ("a " * 24, "not a list"),
    ],
)
def test_bad_files(publishers, read, tmp_path, content, found):
    root = publishers.feafa(tmp_path, people=2)
    (root / "P2" / "seq1" / "0001.auw").write_text(content)
    with pytest.raises(InputError, match=rf"{found}.*P2/seq1/0001.auw\]"):
        read("feafa", root)
    assert len(read("feafa", root, max_bad=1).manifest) == 3


def test_other_images_and_none(publishers, read, tmp_path):
    root = publishers.feafa(tmp_path, people=2)
    folder = root / "P2" / "seq1"
    (folder / "0000.jpg").unlink()
    with pytest.raises(InputError, match=r"missing image .*0000.jpg \[.*0000.auw\]"):
        read("feafa", root)
    publishers.image(folder / "0000.png")
    (folder / "0000.auw").write_text(",".join(["0.25"] * 24))
    row = read("feafa", root).manifest.frame.iloc[2]
    assert row["image"] == "P2/seq1/0000.png" and row["action_units"] == [0.25] * 24


def test_wrong_folds_and_no_files(publishers, read, tmp_path):
    with pytest.raises(MissingPathError, match=r"no .auw file"):
        read("feafa", tmp_path)
    root = publishers.feafa(tmp_path, people=3)
    for options, found in (({"fold": 4, "folds": 3}, "fold 4"), ({"fold": 1, "folds": 4}, "4 folds for 3 people")):
        with pytest.raises(ConfigError, match=found):
            read("feafa", root, **options, max_bad=99)
