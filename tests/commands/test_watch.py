"""Videos as sequences of faces."""

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from explllm.models.explllm import ExpLLM


@pytest.fixture
def video(drawn_faces, tmp_path):
    """Two seconds at 10 frames a second: one face, then another."""
    faces = [np.array(Image.open(path).convert("RGB")) for path in sorted(drawn_faces.glob("test/*.png"))[:2]]
    size = faces[0].shape[1::-1]
    writer = cv2.VideoWriter(str(tmp_path / "faces.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for place in range(20):
        writer.write(cv2.cvtColor(faces[place // 10], cv2.COLOR_RGB2BGR))
    writer.release()
    return tmp_path / "faces.avi", faces


def test_watch(explllm, video, fitted, tmp_path):
    path, faces = video
    command = ("watch", path, "--model", fitted / "model", "-o", tmp_path / "out.csv", "--picture", tmp_path / "t.png")
    done = explllm(*command, "--every", 0.25, "--batch_size", 3)
    assert done.status == 0 and done.out == "", done.err
    assert "treated as one face" in done.err and f"8 frames, 8 with a face: {tmp_path}/out.csv" in done.err
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["seconds"].tolist() == [0, 0.3, 0.5, 0.8, 1.0, 1.3, 1.5, 1.8]
    model = ExpLLM.from_pretrained(fitted / "model")
    for rows, face in ((table[:4], faces[0]), (table[4:], faces[1])):
        [expected] = model.recognize(face)
        for label, share in expected.probabilities.items():
            assert rows[f"p_{label}"].tolist() == pytest.approx([share] * 4, abs=0.05)  # JPEG changes the pixels
    assert Image.open(tmp_path / "t.png").width > 1000
    assert "the manifest exists" in explllm(*command).error
    assert explllm(*command, "--overwrite", "--seconds", 0.6).status == 0
    assert pd.read_csv(tmp_path / "out.csv")["seconds"].tolist() == [0, 0.5]


def test_what_is_no_video(explllm, fitted, tmp_path):
    (tmp_path / "text.mp4").write_text("This is not a video.")
    options = ("--model", fitted / "model", "-o", tmp_path / "out.csv")
    assert "not a video that OpenCV can read" in explllm("watch", "text.mp4", *options).error
    assert "the video does not exist" in explllm("watch", "none.mp4", *options).error
    assert "camera 99 cannot be opened" in explllm("watch", "99", *options).error
