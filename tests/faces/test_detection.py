"""``explllm faces``: what the manifest says afterwards."""

import pytest
from PIL import Image

from explllm.core.action_units import NAMES
from explllm.core.manifest import Manifest
from explllm.faces.boxes import iou
from explllm.faces.detection import crop_name

ASTRONAUT = (175.0, 70.0, 93.0, 93.0)


def rows(path):
    return Manifest.read(path).frame.set_index("image", drop=False)


def test_every_row_has_a_box_or_a_reason(run, folder, detector_file):
    status, out, err = run("faces", folder / "all.jsonl", "-o", "out.jsonl", "--detector", detector_file)
    assert status == 1  # some images cannot be used
    found = rows("out.jsonl")
    assert list(found["image"]) == list(rows(folder / "all.jsonl")["image"])
    assert iou(found.loc["astronaut.png", "box"], ASTRONAUT) >= 0.5
    assert found.loc["astronaut.png", "face_status"] == "found" and found.loc["astronaut.png", "face_score"] > 0.5
    for name, reason in {
        "coffee.png": "no face found",
        "chelsea.png": "no face found",
        "empty.jpg": "unreadable image: not an image, or in an unknown format",
        "text.jpg": "unreadable image: not an image, or in an unknown format",
        "missing.jpg": "the image does not exist",
    }.items():
        assert found.loc[name, "box"] is None and found.loc[name, "face_status"] == reason
    counted = {line.split("  ")[-1]: line.split()[0] for line in out.splitlines()[:-1]}
    assert counted == {
        "found": str(found["box"].notna().sum()),
        "no face found": str((found["face_status"] == "no face found").sum()),
        "the image does not exist": "1",
        "unreadable image: not an image, or in an unknown format": "2",
    }
    assert "face detector: CPUExecutionProvider" in err or "CUDA" in err
    assert "bad: empty.jpg: unreadable image" in err
    assert f"rows in out.jsonl; image paths are relative to {folder}" in out


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_the_formats_hold_the_same(run, folder, detector_file, ending):
    for out in ("out.jsonl", f"other.{ending}"):
        run("faces", folder / "all.jsonl", "-o", out, "--detector", detector_file, "--overwrite", "--crops", "crops")
    first, second = Manifest.read("out.jsonl").frame, Manifest.read(f"other.{ending}").frame
    assert first.astype(object).where(first.notna(), None).to_dict() == (
        second.astype(object).where(second.notna(), None).to_dict()
    )


def test_which_face(run, photographs, manifest_of, detector_file, detector, tmp_path):
    photographs["six"].save(tmp_path / "six.png")
    held = {"image": "six.png", "expression": "Happiness", "split": "test", "action_units": [0.5] * 24, "identity": "x"}
    held |= {"facs": [1, 0], "facs_set": "disfa", "cot_status": "accepted", "url": "https://example.org/six"}
    manifest_of(tmp_path / "m.jsonl", [held])
    boxes = [list(face.box) for face in detector.detect(photographs["six"])]
    made = {}
    for which in ("largest", "central", "all"):
        status, out, _ = run("faces", "m.jsonl", "-o", f"{which}.jsonl", "--detector", detector_file, "--which", which)
        assert status == 0
        made[which] = Manifest.read(f"{which}.jsonl").frame
    assert list(made["largest"]["box"]) == [max(boxes, key=lambda box: box[2] * box[3])]
    assert list(made["central"]["box"]) == [min(boxes, key=lambda box: abs(box[0] + box[2] / 2 - 640))]
    assert list(made["all"]["box"]) == sorted(boxes)
    assert "5 rows were added for additional faces" in out
    # The picture's label and numbers are those of one face, nobody knows of which.
    assert made["all"][["expression", "action_units", "identity"]].isna().all(axis=None)
    assert made["all"][["facs", "facs_set", "cot_status"]].isna().all(axis=None)
    assert set(made["all"]["split"]) == {"test"} and set(made["all"]["url"]) == {"https://example.org/six"}
    assert made["largest"]["expression"][0] == "Happiness" and made["largest"]["action_units"][0] == [0.5] * len(NAMES)


def test_boxes_that_are_there_are_kept(run, photographs, manifest_of, detector_file, detector, tmp_path):
    for name in ("six", "coffee", "astronaut"):
        photographs[name].save(tmp_path / f"{name}.png")
    first, second = (list(face.box) for face in detector.detect(photographs["six"])[:2])
    held = [
        {"image": "six.png", "box": [first[0] + 5, first[1], first[2], first[3]]},
        {"image": "six.png", "box": second},
        {"image": "six.png", "box": [600, 0, 20, 20]},
        {"image": "coffee.png", "box": [1, 2, 3, 4]},
        {"image": "astronaut.png"},
        {"image": "gone.png", "box": [5, 5, 5, 5]},
    ]
    manifest_of(tmp_path / "m.jsonl", held)
    status, _, _ = run("faces", "m.jsonl", "-o", "kept.jsonl", "--detector", detector_file)
    kept = Manifest.read("kept.jsonl").frame
    assert status == 0 and list(kept["face_status"]) == ["given"] * 4 + ["found", "given"]
    assert [box for row, box in enumerate(kept["box"]) if row != 4] == [row["box"] for row in held if "box" in row]

    status, _, _ = run("faces", "m.jsonl", "-o", "redone.jsonl", "--detector", detector_file, "--redo")
    redone = Manifest.read("redone.jsonl").frame
    nothing = "no face found; the earlier box is kept"
    # Each row of the group keeps its own face, and a row without a match keeps its box.
    assert list(redone["box"][:2]) == [first, second]
    no_match = "no detected face overlaps the earlier box, which is kept"
    assert list(redone["face_status"]) == ["found", "found", no_match, nothing, "found", "the image does not exist"]
    assert list(redone["box"][2:4]) == [[600, 0, 20, 20], [1, 2, 3, 4]] and redone["box"][5] == [5, 5, 5, 5]


def test_crops(run, folder, photographs, manifest_of, detector_file, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photographs["six"].save(tmp_path / "in" / "sub" / "six.jpg")
    photographs["astronaut"].save(tmp_path / "outside.png")
    photographs["coffee"].save(tmp_path / "in" / "coffee.png")
    held = [{"image": "sub/six.jpg"}, {"image": "../outside.png"}, {"image": "coffee.png", "box": [10, 20, 30, 40]}]
    manifest_of(tmp_path / "in" / "m.jsonl", held)
    run("faces", "in/m.jsonl", "-o", "out.csv", "--detector", detector_file, "--which", "all", "--crops", "crops",
        "--margin", "0.5")  # fmt: skip
    found = Manifest.read("out.csv").frame
    names = [
        "sub/six.jpg",
        *(f"sub/six.face{number}.jpg" for number in range(2, 7)),
        "outside.png.jpg",
        "coffee.png.jpg",
    ]
    assert list(found["crop"]) == names
    assert {str(path.relative_to(tmp_path / "crops")) for path in (tmp_path / "crops").rglob("*.jpg")} == set(names)
    for name, box in zip(found["crop"], found["box"], strict=True):
        with Image.open(tmp_path / "crops" / name) as crop:
            assert crop.width == crop.height and abs(crop.width - 2 * max(box[2:])) <= 1
    assert list((tmp_path / "in").rglob("*.png.jpg")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_crops_that_cannot_be_written_end_the_run(run, photographs, manifest_of, detector_file, tmp_path, workers):
    photographs["astronaut"].save(tmp_path / "a.png")
    manifest_of(tmp_path / "m.jsonl", [{"image": "a.png"}])
    arguments = ["m.jsonl", "-o", "o.csv", "--workers", workers, "--crops", "crops", "--detector"]
    (tmp_path / "crops").touch()
    error, _, _ = run("faces", *arguments, detector_file)
    assert error == "error: --crops expects a folder, found a file [crops]. Name a folder."
    assert not (tmp_path / "o.csv.partial.jsonl").exists()  # found before the work
    (tmp_path / "crops").unlink()
    (tmp_path / "crops" / "a.png.jpg").mkdir(parents=True)
    error, _, _ = run("faces", *arguments, detector_file)
    assert error.startswith("error: the crop cannot be written (Is a directory) [crops/a.png.jpg].")
    assert not (tmp_path / "o.csv").exists()
    # The same command resumes the run.
    (tmp_path / "crops" / "a.png.jpg").rmdir()
    assert run("faces", *arguments, detector_file)[0] == 0 and rows("o.csv")["box"].notna().all()


@pytest.mark.parametrize(
    ("image", "number", "name"),
    [
        ("a.jpg", 1, "a.jpg"),
        ("x/y/a.jpg", 2, "x/y/a.face2.jpg"),
        ("a.png", 1, "a.png.jpg"),
        ("/data/a.jpg", 1, "data/a.jpg"),
        ("../../a.jpg", 1, "a.jpg"),
    ],
)
def test_crops_stay_in_their_folder(image, number, name):
    assert crop_name(image, number) == name


@pytest.mark.parametrize("images", [("a.jpg", "../a.jpg"), ("a.jpg", "a.face2.jpg"), ("a.png.jpg", "a.png")])
def test_no_crop_takes_the_place_of_another(run, manifest_of, detector_file, tmp_path, images):
    manifest_of(tmp_path / "m.jsonl", [{"image": image} for image in images])
    status, _, _ = run("faces", "m.jsonl", "-o", "o.csv", "--detector", detector_file, "--crops", "crops")
    assert "would have the same name" in status and not (tmp_path / "crops").exists()


@pytest.mark.parametrize(
    ("images", "crops"),
    [
        (["sub/six.jpg"], "in"),
        (["sub/six.jpg"], "link"),
        (["six.jpg", "sub/six.jpg"], "in/sub"),  # the crop of the first would replace the second
        (["linked/six.jpg"], "elsewhere"),
        (["six.jpg", "sub/six.face2.jpg"], "in/sub"),  # the second face
    ],
)
def test_no_crop_takes_the_place_of_an_image(run, photographs, manifest_of, detector_file, tmp_path, images, crops):
    for folder in ("in/sub", "elsewhere/linked"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "in/linked").symlink_to("../elsewhere/linked")
    for image in images:
        photographs["six"].save(tmp_path / "in" / image)
    before = [(tmp_path / "in" / image).read_bytes() for image in images]
    manifest_of(tmp_path / "in/m.jsonl", [{"image": image} for image in images])
    error, _, _ = run("faces", "in/m.jsonl", "-o", "o.csv", "--detector", detector_file, "--crops", crops)
    assert "would replace an image [" in error
    assert [(tmp_path / "in" / image).read_bytes() for image in images] == before
    assert not (tmp_path / "o.csv").exists()


def test_the_images_may_lie_elsewhere(run, folder, detector_file, manifest_of, tmp_path):
    manifest_of(tmp_path / "m.jsonl", [{"image": "astronaut.png"}])
    status, _, err = run("faces", "m.jsonl", "-o", "out.jsonl", "--detector", detector_file)
    assert status == 1 and "no image could be used: are the paths relative to .? If not, pass --root" in err
    status, _, _ = run("faces", "m.jsonl", "-o", "o.jsonl", "--detector", detector_file, "--root", folder)
    assert status == 0 and Manifest.read("o.jsonl").frame["box"].notna().all()


@pytest.mark.parametrize("command", ["faces", "aus"])
def test_failures_alone_replace_no_table(run, folder, detector_file, landmarker_file, manifest_of, tmp_path, command):
    """The wrong root, and the output is the input."""
    models = ["--detector", detector_file] if command == "faces" else ["--landmarker", landmarker_file]
    manifest_of(tmp_path / "m.jsonl", [{"image": "astronaut.png", "expression": "Happiness"}])
    before = (tmp_path / "m.jsonl").read_bytes()
    error, _, _ = run(command, "m.jsonl", "-o", "m.jsonl", "--overwrite", "--redo", *models)
    reason = "the existing manifest was not replaced: astronaut.png: the image does not exist [m.jsonl]"
    assert error.startswith(f"error: no image could be used, and {reason}") and error.endswith("pass --root.")
    assert [path.read_bytes() for path in tmp_path.glob("m.jsonl*")] == [before]
    # The same command with the right root starts anew.
    assert run(command, "m.jsonl", "-o", "m.jsonl", "--overwrite", "--root", folder, *models)[0] == 0
    column = "box" if command == "faces" else "action_units"
    assert Manifest.read("m.jsonl").frame[column].notna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "m.jsonl -o o.txt --detector D",
            "--out has the extension '.txt' [o.txt]. Use one of the extensions .parquet, .csv, .jsonl.",
        ),
        (
            "m.jsonl -o m.jsonl --detector D",
            "the manifest exists [m.jsonl]. Choose another --out, or pass --overwrite.",
        ),
        ("none.jsonl -o o.csv --detector D", "the manifest does not exist [none.jsonl]."),
        ("m.jsonl -o o.csv --detector none", "the file does not exist [none]."),
        ("m.jsonl -o o.csv --detector m.jsonl", "a file that is not an ONNX model, or that onnxruntime cannot run"),
        ("m.jsonl -o o.csv --detector D --root none", "the folder does not exist [none]. Check --root."),
        ("m.jsonl -o o.csv", "no --detector given. Pass --detector. See `explllm faces --help`."),
        ("m.jsonl -o o.csv --detector D --which best", "--which is 'best', not one of largest, central, all."),
        ("m.jsonl -o o.csv --detector D --workers 0", "--workers is 0. Use 1 to 256."),
        ("m.jsonl -o o.csv --detector D --threshold 2", "--threshold is 2.0. Use 0 to 1."),
        ("m.jsonl -o o.csv --detector D --margin nan", "--margin is 'nan', not a number."),
        (
            "m.jsonl -o o.csv --detector D --max-bad 0",
            "1 images could not be used, the last because: gone.png: the image",
        ),
    ],
)
def test_mistakes(run, manifest_of, detector_file, tmp_path, arguments, message):
    manifest_of(tmp_path / "m.jsonl", [{"image": "gone.png"}])
    words = [detector_file if word == "D" else word for word in arguments.split()]
    status, _, _ = run("faces", *words)
    assert status.startswith(f"error: {message}")
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("command", ["faces --detector", "aus --landmarker"])
def test_a_table_that_out_cannot_hold_is_refused_before_the_work(run, manifest_of, tmp_path, command):
    manifest_of(tmp_path / "m.jsonl", [{"image": "a.png", "note": 1}, {"image": "b.png", "note": "two"}])
    name, option = command.split()
    (tmp_path / "model").touch()  # not a model, which is noticed later
    error, _, _ = run(name, "m.jsonl", "-o", "o.parquet", option, "model")
    assert error.startswith("error: .parquet cannot represent the table")
    assert "column note" in error and error.endswith(" [o.parquet]. Use one type per column, or write .jsonl.")
    assert {path.name for path in tmp_path.iterdir()} == {"m.jsonl", "model"}


def test_redo_keeps_a_single_row_on_its_person(run, photographs, manifest_of, detector_file, detector, tmp_path):
    photographs["six"].save(tmp_path / "six.png")
    faces = detector.detect(photographs["six"])
    largest = max(faces, key=lambda face: face.box[2] * face.box[3])
    own = next(face for face in faces if face is not largest)
    near = [own.box[0] + 3, own.box[1] - 2, own.box[2], own.box[3]]
    rows = [{"image": "six.png", "box": near, "expression": "Sadness"}]
    manifest_of(tmp_path / "m.jsonl", rows)
    run("faces", "m.jsonl", "-o", "redone.jsonl", "--detector", detector_file, "--redo")
    [row] = Manifest.read("redone.jsonl").frame.to_dict("records")
    assert row["box"] == list(own.box) and row["expression"] == "Sadness" and row["face_status"] == "found"


def test_a_truncated_photograph_is_a_row_with_a_warning(run, photographs, manifest_of, detector_file, tmp_path):
    photographs["astronaut"].save(tmp_path / "cut.jpg", quality=90)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-300])
    manifest_of(tmp_path / "m.jsonl", [{"image": "cut.jpg"}])
    with pytest.warns(UserWarning, match="truncated"):
        status, _, _ = run("faces", "m.jsonl", "-o", "o.jsonl", "--detector", detector_file)
    [row] = Manifest.read("o.jsonl").frame.to_dict("records")
    assert status == 0 and iou(row["box"], ASTRONAUT) >= 0.5
    assert row["face_status"] == "found; the image file is truncated"
