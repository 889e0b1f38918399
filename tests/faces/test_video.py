"""The times of a video's frames."""

import cv2
import numpy as np
import pytest
from PIL import Image

from explllm.faces.video import video_frames


def test_a_variable_frame_rate(tmp_path):
    """50 frames of 40 ms, then 8 of a second, each with a color of its own."""
    frames = [Image.new("RGB", (64, 64), (4 * number, 0, 0)) for number in range(58)]
    lengths = [40] * 50 + [1000] * 8
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:], duration=lengths)
    found = [(now, round(np.array(frame)[..., 0].mean() / 4)) for now, frame in video_frames(f"{tmp_path}/v.gif", 0.01)]
    assert found == [(pytest.approx(sum(lengths[:number]) / 1000), number) for number in range(58)]
    assert [now for now, _ in video_frames(f"{tmp_path}/v.gif", 1.0)] == pytest.approx(range(10))


def write(path, rate, frames):
    codec = "MJPG" if path.endswith(".avi") else "mp4v"
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*codec), rate, (64, 64))
    for _ in range(frames):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()


@pytest.mark.parametrize("has_times", [True, False])
@pytest.mark.parametrize(("name", "rate"), [("v.mp4", 30000 / 1001), ("v.avi", 10)])
def test_a_constant_frame_rate(tmp_path, monkeypatch, name, rate, has_times):
    path = str(tmp_path / name)
    write(path, rate, 30)
    if not has_times:
        monkeypatch.setattr("explllm.faces.video._position", lambda _: 0.0)
    times = [now for now, _ in video_frames(path, 0.001)]
    assert times == pytest.approx([number / rate for number in range(30)], abs=1e-4)


@pytest.mark.parametrize("name", ["v.mp4", "v.avi"])
def test_one_frame_for_each_time(tmp_path, name):
    """Also where rounding puts a frame just before its time, such as 0.3 before 3 * 0.1."""
    path = str(tmp_path / name)
    write(path, 30, 90)
    assert [now for now, _ in video_frames(path, 0.1)] == pytest.approx([number / 10 for number in range(30)])
