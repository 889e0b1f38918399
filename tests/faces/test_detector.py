"""SCRFD finds the faces of photographs, whatever their size and orientation."""

import shutil

import numpy as np
import pytest
from PIL import Image

from explllm.core.errors import CheckpointError, ConfigError, ImageError, MissingPathError
from explllm.faces import onnx_session
from explllm.faces.boxes import iou

ASTRONAUT = (175.0, 70.0, 93.0, 93.0)
"""The face of the astronaut, measured by eye."""


@pytest.fixture
def opened(detector_file):
    """Opens other detectors."""
    from explllm.faces.detector import FaceDetector

    return lambda path, **settings: FaceDetector(path, threads=1, **settings)


def test_one_face(detector, photographs):
    [face] = detector.detect(photographs["astronaut"])
    assert iou(face.box, ASTRONAUT) >= 0.5
    assert 0.5 <= face.score <= 1
    x, y, w, h = face.box
    assert len(face.landmarks) == 5 and all(x < px < x + w and y < py < y + h for px, py in face.landmarks)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_six_faces(detector, photographs):
    faces = detector.detect(photographs["six"])
    assert len(faces) == 6
    assert max(iou(a.box, b.box) for i, a in enumerate(faces) for b in faces[:i]) < 0.1
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


@pytest.mark.parametrize("name", ["coffee", "chelsea"])
def test_no_face(detector, photographs, name):
    assert detector.detect(photographs[name]) == []


# The transposition that a viewer undoes by each orientation of EXIF.
STORED = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
          8: Image.Transpose.ROTATE_270}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
def test_boxes_are_of_the_upright_image(detector, photographs, tmp_path, orientation):
    """The photograph is not square, so that a box in the other frame would lie elsewhere."""
    upright = photographs["astronaut"].crop((0, 0, 400, 512))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(STORED[orientation]).save(tmp_path / "phone.png", exif=exif)
    [expected], [face] = detector.detect(upright), detector.detect(tmp_path / "phone.png")
    assert np.allclose(face.box, expected.box) and iou(face.box, ASTRONAUT) >= 0.5


def test_large_and_small_images(detector, photographs):
    wide = Image.new("RGB", (4000, 3000), (90, 90, 90))
    wide.paste(photographs["astronaut"].resize((3000, 3000)), (500, 0))
    [face] = detector.detect(wide)
    scale = 3000 / 512
    expected = (ASTRONAUT[0] * scale + 500, *(side * scale for side in ASTRONAUT[1:]))
    assert iou(face.box, expected) >= 0.5
    [face] = detector.detect(photographs["astronaut"].resize((96, 96)))
    assert iou(face.box, tuple(side * 96 / 512 for side in ASTRONAUT)) >= 0.5
    for size in ((1, 1), (3000, 1), (1, 3000), (7, 2000)):
        assert detector.detect(Image.new("RGB", size)) == []


def test_faces_that_fill_the_image_are_found(detector, reference_data):
    """Without the second look with a border, 4 of 150 such faces were found."""
    paths = sorted((reference_data / "faces" / "test").rglob("*.jpg"))[::13]
    found = [detector.detect(path) for path in paths]
    assert len(paths) > 40 and sum(map(bool, found)) >= 0.9 * len(paths)
    for faces in found:
        for face in faces:
            x, y, w, h = face.box
            assert min(x, y) >= 0 and x + w <= 224.01 and y + h <= 224.01 and w > 60


def test_a_detector_for_any_size_gives_each_face_once(opened, any_size_file, detector, photographs):
    usual = opened(any_size_file)
    assert usual.size == 640
    for name in ("astronaut", "six"):
        faces, expected = usual.detect(photographs[name]), detector.detect(photographs[name])
        assert len(faces) == len(expected)
        assert all(iou(a.box, b.box) > 0.95 for a, b in zip(faces, expected, strict=True))
    [face] = opened(any_size_file, input_size=320).detect(photographs["astronaut"])
    assert iou(face.box, ASTRONAUT) >= 0.5
    with pytest.raises(ConfigError, match="the input size is 100 .*Use a multiple of 32"):
        opened(any_size_file, input_size=100)


def test_the_threshold_counts(opened, detector_file, photographs):
    assert opened(detector_file, threshold=0.99).detect(photographs["astronaut"]) == []
    with pytest.raises(ConfigError, match="the threshold is 1"):
        opened(detector_file, threshold=1)
    with pytest.raises(ConfigError, match="the input size is 320, but the detector takes 640 x 640"):
        opened(detector_file, input_size=320)


def regressor(path, outputs):
    onnx = pytest.importorskip("onnx", reason="no onnx, which insightface brings")
    make = onnx.helper
    image = make.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 64, 64])
    names = [f"out{number}" for number in range(outputs)]
    nodes = [make.make_node("GlobalAveragePool", ["image"], [name]) for name in names]
    values = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 1, 1]) for name in names]
    graph = make.make_graph(nodes, "means", [image], values)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_folders(opened, detector_file, tmp_path, photographs):
    with pytest.raises(MissingPathError, match="the folder has no .onnx files"):
        opened(tmp_path)
    regressor(tmp_path / "a_regressor.onnx", 1)
    (tmp_path / "broken.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match="0 SCRFD detectors among 2 ONNX files: none"):
        opened(tmp_path)
    shutil.copy(detector_file, tmp_path / "det.onnx")
    assert len(opened(tmp_path).detect(photographs["six"])) == 6
    shutil.copy(detector_file, tmp_path / "second.onnx")
    with pytest.raises(CheckpointError, match="2 SCRFD detectors among 4 ONNX files: det.onnx, second.onnx"):
        opened(tmp_path)


def test_files_that_are_no_detector(opened, tmp_path, reference_data):
    with pytest.raises(MissingPathError, match="the file does not exist"):
        opened(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").touch()
    for path in (tmp_path / "text.onnx", tmp_path / "empty.onnx", reference_data / "landmarker/face_landmarker.task"):
        with pytest.raises(CheckpointError, match="a file that is not an ONNX model"):
            opened(path)
    with pytest.raises(CheckpointError, match="not an SCRFD face detector: 1 outputs instead of 6, 9, 10, 15"):
        opened(regressor(tmp_path / "one.onnx", 1))
    with pytest.raises(CheckpointError, match=r"not an SCRFD face detector: output 1 is \(1, 3, 1, 1\), not 128 x 1"):
        opened(regressor(tmp_path / "nine.onnx", 9))


def test_images_that_cannot_be_read(detector, tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError):
        detector.detect(tmp_path / "empty.jpg")
    with pytest.raises(MissingPathError):
        detector.detect(tmp_path / "none.jpg")


def test_it_says_what_it_runs_on(opened, detector_file, monkeypatch):
    monkeypatch.setattr(onnx_session, "has_nvidia_gpu", lambda: False)
    assert opened(detector_file, provider="cpu").runs_on == ["face detector: CPUExecutionProvider"]
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime can use a GPU here")
    assert opened(detector_file).runs_on == ["face detector: CPUExecutionProvider"]
    monkeypatch.setattr(onnx_session, "has_nvidia_gpu", lambda: True)
    _, warning = opened(detector_file).runs_on
    assert warning.startswith("warning: face detector runs on the CPU although this machine has a GPU")
    assert len(opened(detector_file, provider="cpu").runs_on) == 1  # asked for
    with pytest.raises(ConfigError, match="onnxruntime cannot use a GPU here"):
        opened(detector_file, provider="cuda")
