"""``explllm aus``: what the manifest says afterwards."""

import numpy as np
import pytest

from explllm.core.manifest import Manifest
from explllm.faces.crop import DEFAULT_MARGIN, face_crop
from explllm.faces.estimators import fill_unmeasured

DEAD = "Jaw Thrust, Cheeks Puff, Nose Wrinkle"


def test_every_row_has_intensities_or_a_reason(run, folder, landmarker_file, blendshapes, photographs):
    status, out, err = run("aus", folder / "all.jsonl", "-o", "out.jsonl", "--landmarker", landmarker_file)
    assert status == 1
    found = Manifest.read("out.jsonl").frame.set_index("image")
    [expected] = blendshapes.estimate([photographs["astronaut"]])
    row = found.loc["astronaut.png"]
    assert np.abs(np.array(row["action_units"]) - fill_unmeasured(expected)).max() < 1e-4
    assert row["action_units_source"] == "mediapipe-blendshapes" and row["action_units_status"] == "estimated"
    assert row["action_units_missing"] == DEAD
    for name, reason in {
        "coffee.png": "no face found",
        "empty.jpg": "unreadable image: not an image, or in an unknown format",
        "missing.jpg": "the image does not exist",
    }.items():
        row = found.loc[name]
        assert row["action_units"] is None and row["action_units_source"] is None
        assert row["action_units_status"] == reason
    assert "bad: text.jpg" in err and "rows in out.jsonl" in out
    assert (found["action_units_status"] == "estimated").sum() >= 7


def test_the_face_in_the_box_counts(run, photographs, manifest_of, landmarker_file, blendshapes, detector, tmp_path):
    photographs["six"].save(tmp_path / "six.png")
    boxes = [list(face.box) for face in detector.detect(photographs["six"])]
    manifest_of(tmp_path / "m.jsonl", [{"image": "six.png", "box": box} for box in boxes])
    for margin in (DEFAULT_MARGIN, 0.3):
        run("aus", "m.jsonl", "-o", "o.jsonl", "--landmarker", landmarker_file, "--margin", margin, "--overwrite")
        expected = blendshapes.estimate([face_crop(photographs["six"], box, margin) for box in boxes])
        found = Manifest.read("o.jsonl").frame["action_units"]
        assert np.abs(np.array(list(found)) - [fill_unmeasured(one) for one in expected]).max() < 1e-4


def test_intensities_that_are_there_are_kept(run, folder, manifest_of, landmarker_file, tmp_path):
    held = {"action_units": [0.25] * 24, "action_units_source": "person"}
    manifest_of(
        tmp_path / "m.jsonl",
        [{"image": "astronaut.png", **held}, {"image": "real0.jpg"}, {"image": "coffee.png", **held}],
    )
    arguments = ["--landmarker", landmarker_file, "--root", folder]
    run("aus", "m.jsonl", "-o", "o.csv", *arguments)
    kept = Manifest.read("o.csv").frame
    assert list(kept["action_units_status"]) == ["given", "estimated", "given"]
    assert kept["action_units"][0] == [0.25] * 24
    assert list(kept["action_units_source"]) == ["person", "mediapipe-blendshapes", "person"]
    run("aus", "m.jsonl", "-o", "redone.csv", "--redo", *arguments)
    redone = Manifest.read("redone.csv").frame
    assert list(redone["action_units_status"]) == ["estimated", "estimated", "no face found"]
    assert redone["action_units"][0] != [0.25] * 24 and redone["action_units_source"][0] == "mediapipe-blendshapes"
    # What could not be estimated anew stays as it was, under its own source.
    assert redone["action_units"][2] == [0.25] * 24 and redone["action_units_source"][2] == "person"


def test_drawn_faces_stay_known_as_such(run, folder, manifest_of, landmarker_file, tmp_path):
    held = {"action_units": [0.25] * 24, "action_units_source": "drawn"}
    manifest_of(tmp_path / "m.jsonl", [{"image": "astronaut.png", **held}, {"image": "real0.jpg"}])
    for times in range(2):
        run("aus", "m.jsonl", "-o", f"{times}.csv", "--redo", "--landmarker", landmarker_file, "--root", folder)
        redone = Manifest.read(f"{times}.csv")
        assert list(redone.frame["action_units_source"]) == ["mediapipe-blendshapes"] * 2
        assert list(redone.is_synthetic()) == [True, False]
        redone.write("m.jsonl")


def test_an_onnx_model(run, folder, manifest_of, tmp_path):
    onnx = pytest.importorskip("onnx", reason="no onnx, which insightface brings")
    make = onnx.helper
    values = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", ["batch", 3, 64, 64]), ("units", ["batch", 24]))
    ]
    nodes = [
        make.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        make.make_node("Flatten", ["pooled"], ["means"]),
        make.make_node("Gemm", ["means", "weights", "bias"], ["units"]),
    ]
    held = [
        onnx.numpy_helper.from_array(np.zeros((3, 24), np.float32), "weights"),
        onnx.numpy_helper.from_array(np.linspace(0, 1, 24, dtype=np.float32), "bias"),
    ]
    graph = make.make_graph(nodes, "au", values[:1], values[1:], held)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), tmp_path / "au.onnx")
    status, _, err = run("aus", folder / "all.jsonl", "-o", "o.parquet", "--onnx", "au.onnx", "--preset", "small")
    found = Manifest.read("o.parquet").frame
    usable = found["action_units"].notna()
    assert status == 1 and "action units: " in err
    assert list(found["image"][~usable]) == ["empty.jpg", "text.jpg", "missing.jpg"]
    assert set(found["action_units_source"][usable]) == {"onnx:au.onnx"}
    assert found["action_units_missing"].isna().all()
    assert np.abs(np.array(list(found["action_units"][usable])) - np.linspace(0, 1, 24)).max() < 1e-4


def test_rows_without_a_face_are_left_out(run, folder, manifest_of, landmarker_file):
    rows = [
        {"image": "real0.jpg"},
        {"image": "real1.jpg", "face_status": "no face found"},
        {"image": "real2.jpg", "face_status": "no face found", "action_units": [0.25] * 24},
        {"image": "real3.jpg", "face_status": "found", "box": [20, 20, 180, 180]},
    ]
    manifest_of(folder / "faceless.jsonl", rows)
    try:
        status, _, _ = run(
            "aus", folder / "faceless.jsonl", "-o", "o.parquet", "--landmarker", landmarker_file, "--redo"
        )
    finally:
        (folder / "faceless.jsonl").unlink()
    found = Manifest.read("o.parquet").frame
    assert status == 0
    assert list(found["action_units_status"]) == ["estimated", "no face found", "given", "estimated"]
    assert found["action_units"][1] is None and found["action_units"][2] == [0.25] * 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("m.jsonl -o o.csv", "none of --landmarker, --onnx is given. Pass one of them, with its file."),
        ("m.jsonl -o o.csv --landmarker L --onnx L", "both --landmarker and --onnx are given. Pass one of them."),
        ("m.jsonl -o o.csv --landmarker none", "the landmarker does not exist [none]. Check the path."),
        ("m.jsonl -o o.csv --landmarker m.jsonl", "a file that is not a face landmarker with blendshapes [m.jsonl]."),
        ("m.jsonl -o o.csv --onnx L", "a file that is not an ONNX model, or that onnxruntime cannot run"),
        ("m.jsonl -o o.csv --onnx L --preset none", "there is no image preset 'none'."),
        ("m.jsonl -o o.csv --landmarker L --max-bad 0", "1 images could not be used, the last because: gone.png:"),
    ],
)
def test_mistakes(run, manifest_of, landmarker_file, tmp_path, arguments, message):
    manifest_of(tmp_path / "m.jsonl", [{"image": "gone.png"}])
    status, _, _ = run("aus", *[landmarker_file if word == "L" else word for word in arguments.split()])
    assert status.startswith(f"error: {message}")
    assert not (tmp_path / "o.csv").exists()
