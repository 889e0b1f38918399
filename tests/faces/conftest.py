"""Photographs, model files, and the two commands of this package."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def detector_file(reference_data) -> Path:
    """A real SCRFD file for 640 x 640 pixels."""
    pytest.importorskip("insightface", reason='no insightface: pip install "explllm[faces]"')
    pytest.importorskip("onnxruntime", reason='no onnxruntime: pip install "explllm[faces]"')
    return reference_data / "detector" / "scrfd_500m_bnkps.onnx"


@pytest.fixture(scope="session")
def landmarker_file(reference_data) -> Path:
    """MediaPipe's face landmarker."""
    pytest.importorskip("mediapipe", reason='no mediapipe: pip install "explllm[aus]"')
    return reference_data / "landmarker" / "face_landmarker.task"


@pytest.fixture(scope="session")
def any_size_file(detector_file, tmp_path_factory) -> Path:
    """The same SCRFD, changed to take images of any size, as the files of insightface's packages do."""
    onnx = pytest.importorskip("onnx", reason="no onnx, which insightface brings")
    model = onnx.load(detector_file)
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        side.dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = f"anchors_{output.name}"
    del model.graph.value_info[:]
    doubled = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "doubled")
    model.graph.initializer.append(doubled)
    for node in model.graph.node:
        if node.op_type == "Resize":  # by a factor instead of to a size
            node.input[2] = "doubled"
            del node.input[3:]
    path = tmp_path_factory.mktemp("detector") / "any_size.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def detector(detector_file):
    from explllm.faces.detector import FaceDetector

    return FaceDetector(detector_file, threads=1)


@pytest.fixture(scope="session")
def blendshapes(landmarker_file):
    from explllm.faces.estimators.blendshapes import MediaPipeBlendshapes

    estimator = MediaPipeBlendshapes(landmarker_file)
    yield estimator
    estimator.close()


@pytest.fixture(scope="session")
def photographs() -> dict[str, Image.Image]:
    """Photographs that come with libraries: one face, six faces, none and none."""
    data = pytest.importorskip("skimage.data", reason="no scikit-image for its photographs")
    insightface = pytest.importorskip("insightface", reason='no insightface: pip install "explllm[faces]"')
    made = {name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea")}
    with Image.open(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg") as six:
        made["six"] = six.convert("RGB")
    return made


@pytest.fixture(scope="session")
def folder(photographs, reference_data, tmp_path_factory) -> Path:
    """Photographs, tightly cropped real faces, broken files, and ``all.jsonl`` that lists them; not to be changed."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, image in photographs.items():
        image.save(folder / f"{name}.png")
    for number, path in enumerate(sorted((reference_data / "faces" / "test" / "happy").glob("*.jpg"))[:6]):
        (folder / f"real{number}.jpg").write_bytes(path.read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    names = sorted(path.name for path in folder.iterdir())
    write_manifest(folder / "all.jsonl", [{"image": name} for name in [*names, "missing.jpg"]])
    return folder


def write_manifest(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def manifest_of():
    """Writes rows as a manifest."""
    return write_manifest


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run ``explllm faces`` or ``explllm aus`` in a folder of the test's own; gives status or error, out and err."""
    from explllm.cli import main

    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        capsys.readouterr()
        status = main([name, *map(str, arguments)])
        printed = capsys.readouterr()
        if status == 2:
            [status] = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        return status, printed.out, printed.err

    return run
