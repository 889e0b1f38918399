"""Videos as sequences of faces."""

import os
import signal
from types import SimpleNamespace

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


def test_outputs_replace_nothing(explllm, video, fitted, tmp_path):
    """Neither the video nor the table is replaced, and the picture has the format of its extension."""
    path, _ = video
    content = path.read_bytes()
    (tmp_path / "v.csv").write_bytes(content)
    options = ("--model", fitted / "model", "--seconds", 0.1)
    for call, message in (
        (("v.csv", "-o", tmp_path / "v.csv", "--overwrite"), "--out would replace the video ["),
        ((path, "-o", "t.csv", "--picture", path), "--picture has the extension '.avi'"),
        ((path, "-o", "t.csv", "--picture", "t.csv"), "--picture has the extension '.csv'"),
        ((path, "-o", "t.csv", "--picture", "t.gif"), "--picture has the extension '.gif'"),
        ((path, "-o", "t.csv", "--device", "walk"), "--device walk cannot be used"),
    ):
        done = explllm("watch", *call, *options)
        assert done.status == 2 and message in done.error
    (tmp_path / "v.png").symlink_to(path)
    assert (
        "--picture would replace the video"
        in explllm("watch", path, "-o", "t.csv", "--picture", "v.png", *options).error
    )
    assert path.read_bytes() == (tmp_path / "v.csv").read_bytes() == content and not (tmp_path / "t.csv").exists()
    assert explllm("watch", path, "-o", "t.csv", "--picture", "t.jpg", *options).status == 0
    with Image.open(tmp_path / "t.jpg") as picture:
        assert picture.format == "JPEG" and picture.width > 1000


def test_an_interruption_keeps_the_frames_so_far(explllm, video, fitted, tmp_path, monkeypatch):
    recognize, calls = ExpLLM.recognize, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return recognize(*arguments)

    monkeypatch.setattr(ExpLLM, "recognize", interrupted)
    options = ("--model", fitted / "model", "--every", 0.25, "--batch_size", 3, "--picture", "t.png")
    done = explllm("watch", video[0], "-o", "out.csv", *options)
    message = "\nterminated. 3 of about 8 frames are done, 3 with a face: out.csv.\n"
    assert done.status == 143 and done.err.endswith(message), done.err
    assert pd.read_csv(tmp_path / "out.csv")["seconds"].tolist() == [0, 0.3, 0.5] and (tmp_path / "t.png").is_file()


def test_a_video_without_readable_frames(explllm, video, fitted, monkeypatch):
    class Undecodable:
        """A video whose frames OpenCV finds, but cannot decode."""

        def __init__(self, path):
            self.capture = cv2.VideoCapture(path)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def retrieve(self):
            return False, None

    monkeypatch.setattr("explllm.faces.video.cv2", SimpleNamespace(**{**vars(cv2), "VideoCapture": Undecodable}))
    done = explllm("watch", video[0], "--model", fitted / "model", "-o", "out.csv")
    assert done.status == 2 and f"no frame can be read [{video[0]}]" in done.error


def test_what_is_no_video(explllm, fitted, tmp_path):
    (tmp_path / "text.mp4").write_text("This is not a video.")
    options = ("--model", fitted / "model", "-o", tmp_path / "out.csv")
    assert "not a video that OpenCV can read" in explllm("watch", "text.mp4", *options).error
    assert "the video does not exist" in explllm("watch", "none.mp4", *options).error
    assert "camera 99 cannot be opened" in explllm("watch", "99", *options).error
