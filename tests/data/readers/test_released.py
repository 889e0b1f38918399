import json

import pytest

from explllm.core.errors import InputError, ManifestError, MissingPathError


def test_lists(publishers, read, cells, tmp_path):
    root = publishers.released(tmp_path)
    reading = read("explllm", root, image_dir=str(root / "aligned"))
    assert cells(
        reading, "image", "expression", "split", "action_units", "action_units_source", "cot", "cot_source"
    ) == [
        ("train_00001_aligned.jpg", "Happiness", "train", None, None, None, None),
        ("test_0001_aligned.jpg", "Sadness", "test", [0.0] * 23 + [0.25], "released", "Text.", "released"),
        ("test_0002_aligned.jpg", "Fear", "test", None, None, None, None),
    ]
    assert reading.manifest.root == root / "aligned"
    assert "train 1 instead of 12,271" in reading.differences[0]
    one = read("explllm", root / "rafdb_valid.json", image_dir=str(root / "aligned"), split="val")
    assert set(one.manifest.frame["split"]) == {"val"}


def test_bad_lists(publishers, read, tmp_path):
    root = publishers.released(tmp_path)
    with pytest.raises(
        InputError, match=r"missing image .*rafdb_train.json, entry 1\]. Pass the folder .* as --image_dir"
    ):
        read("explllm", root)
    with pytest.raises(MissingPathError, match="Check --image_dir"):
        read("explllm", root, image_dir=str(root / "nothing"))
    (root / "more.json").write_text("[]")
    with pytest.raises(ManifestError, match=r"no split in the name of the list \[.*more.json\]"):
        read("explllm", root, images_exist=False)
    (root / "more.json").unlink()
    for content, found in (("{}", "not a list of records"), ("[", "invalid JSON")):
        (root / "rafdb_train.json").write_text(content)
        with pytest.raises(ManifestError, match=found):
            read("explllm", root, images_exist=False)
    for record in ({"file_name": "a.jpg"}, ["a.jpg"], {"file_name": "a.jpg", "emo": "Bored"}):
        (root / "rafdb_train.json").write_text(json.dumps([record]))
        with pytest.raises(InputError, match=r"rafdb_train.json, entry 1\]"):
            read("explllm", root, images_exist=False)
    (root / "rafdb_train.json").write_text(json.dumps([{"file_name": "a.jpg", "emo": "Fear", "au": [0.5] * 23}]))
    with pytest.raises(InputError, match="expected 24 action units, got 23"):
        read("explllm", root, images_exist=False)
    with pytest.raises(MissingPathError, match="no list"):
        read("explllm", root / "aligned")


@pytest.mark.parametrize(
    ("folder", "lists", "rows"),
    [("rafdb", ["rafdb_train.json", "rafdb_valid.json"], (12271, 3068)), ("affectnet", None, (37553, 4000))],
)
def test_the_real_lists_have_the_published_counts(read, reference_data, tmp_path, folder, lists, rows):
    lists = lists or [f"Affectnet_kaggle_{name}-sample-affectnet.json" for name in ("train", "valid")]
    for name in lists:
        (tmp_path / name).symlink_to(reference_data / folder / name)
    reading = read("explllm", tmp_path, images_exist=False)
    assert reading.differences == () and reading.left_out == {} and reading.bad == ()
    assert tuple(reading.manifest.frame["split"].value_counts()[["train", "test"]]) == rows
    (tmp_path / lists[0]).unlink()
    assert f"train 0 instead of {rows[0]:,}" in read("explllm", tmp_path, images_exist=False).differences[0]


def test_the_real_explanations(read, reference_data):
    path = reference_data / "rafdb" / "rafdb_cot_first600.json"
    reading = read("explllm", path, images_exist=False, split="test")
    frame = reading.manifest.frame
    assert len(frame) == 600 and set(frame["cot_source"]) == set(frame["action_units_source"]) == {"released"}
    first = json.loads(path.read_text())[0]
    assert frame["cot"][0] == first["description"] and frame["action_units"][0] == first["au"]
