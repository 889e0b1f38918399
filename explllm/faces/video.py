"""Frames of video files and cameras."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
from PIL import Image

from explllm.core.errors import ConfigError, ImageError, MissingPathError


def video_frames(source: str, every: float, seconds: float | None = None) -> Iterator[tuple[float, Image.Image]]:
    """Yield frames at regular times.

    Args:
        source: A video file, or the number of a camera, such as 0.
        every: Seconds between frames. The first frame at or after each time is used.
        seconds: Stop after this many seconds. If None, read the whole video, or read the camera until interrupted.

    Yields:
        The time in seconds since the start, and the RGB frame.

    Raises:
        MissingPathError: If the file does not exist.
        ImageError: If the file is not a video that OpenCV can read, or no frame can be read.
        ConfigError: If the camera cannot be opened.
    """
    is_camera = source.isdecimal()
    if not is_camera and not Path(source).is_file():
        raise MissingPathError("the video does not exist", where=source, remedy="Check the path.")
    capture = cv2.VideoCapture(int(source) if is_camera else source)
    try:
        if not capture.isOpened():
            if is_camera:
                raise ConfigError(
                    f"camera {source} cannot be opened", remedy="Check that it is connected and not in use."
                )
            raise ImageError("not a video that OpenCV can read", where=source, remedy="Convert it to MP4 or AVI.")
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        start, now, due, number = time.monotonic(), 0.0, 0.0, 0
        while capture.grab():
            if is_camera:
                now = time.monotonic() - start
            elif number == 0:
                start = _position(capture)
            else:
                # For files without timestamps, assume a constant frame rate.
                elapsed = _position(capture) - start
                now = elapsed if elapsed > now else now + 1 / rate
            number += 1
            if seconds is not None and now > seconds:
                return
            # The tolerance is for rates such as 29.97, whose timestamps are not exact.
            if now < due - 1e-6:
                continue
            due = every * (1 + (now + 1e-6) // every)
            readable, pixels = capture.retrieve()
            if readable:
                yield now, Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        if number == 0:
            raise ImageError("the video has no frames", where=source, remedy="Check the file.")
    finally:
        capture.release()


def _position(capture: cv2.VideoCapture) -> float:
    """Return the time of the grabbed frame in seconds; this also works for files with a variable frame rate."""
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def frame_count(source: str, every: float, seconds: float | None = None) -> int | None:
    """Return the number of frames that `video_frames` yields, estimated from the file's header; None if unknown."""
    if not source.isdecimal():
        capture = cv2.VideoCapture(source)
        frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS) or 25.0
        capture.release()
        if frames > 0:
            seconds = min(frames / rate, seconds or frames / rate)
    return None if seconds is None else max(1, round(seconds / every))
