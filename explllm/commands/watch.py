"""The command ``explllm watch``: the expressions in a video or camera stream over time."""

from __future__ import annotations

import sys
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from explllm.commands.outputs import check_drawing, check_new_manifest, check_replaces_none, keep_finished
from explllm.commands.parser import Option
from explllm.commands.pictures import AUTO, check_device, open_detector
from explllm.core.errors import ImageError
from explllm.core.files import atomic_write, check_writable

if TYPE_CHECKING:
    import pandas as pd


def watch(
    video: str,
    *,
    out: Path,
    picture: Path | None = None,
    every: Annotated[float, Option(minimum=0.01, maximum=3600)] = 0.5,
    seconds: Annotated[float | None, Option(minimum=0.1, default="the whole video")] = None,
    model: Annotated[str | None, Option(default="the model that comes with explllm")] = None,
    device: Annotated[str | None, Option(default="cpu")] = None,
    batch_size: Annotated[int, Option(minimum=1, maximum=1024)] = 16,
    detector: str = AUTO,
    overwrite: bool = False,
) -> int:
    """Recognize the expression of the largest face in each sampled frame of a video or camera stream.

      explllm watch talk.mp4 -o talk.csv --picture talk.png
      explllm watch 0 -o me.csv --seconds 60

    The table has a row per frame: seconds, expression, confidence, a probability per class, and, with a detector, the
    face's box. Frames are not stored. The exit status is 1 if no frame shows a face.

    Args:
        video: A video file, or the number of a camera, such as 0.
        out: The table to write (.csv, .jsonl, .parquet).
        picture: Plot the probabilities over time to this file (.png, .jpg, .webp).
        every: Seconds between sampled frames.
        seconds: Stop after this many seconds.
        model: A model folder that `fit` or `convert` wrote, such as runs/NAME/model, or a name on the Hugging Face hub.
        device: Device to run the model on, such as cuda or cpu.
        batch_size: Number of frames processed at a time.
        detector: Face detector, as for explain: an SCRFD file (ONNX), none, or auto.
        overwrite: Replace an existing OUT.

    Raises:
        InputError: If the video, the model or an option cannot be used, or an output is the video.
    """
    from explllm.core.progress import track
    from explllm.faces.video import frame_count, video_frames
    from explllm.models.known import shipped_model

    check_replaces_none("--out", [out], [video], "the video")
    check_new_manifest(out, overwrite)
    check_writable(out)
    if picture is not None:
        check_drawing(picture)
        check_replaces_none("--picture", [picture], [video], "the video")
        check_writable(picture)
    check_device(device)
    folder = model or str(shipped_model())
    frames = video_frames(video, every, seconds)
    first = next(frames, None)
    if first is None:
        # A camera may also deliver no frame before --seconds have passed.
        remedy = "Convert the video to MP4 or AVI; for a camera, increase --seconds."
        raise ImageError("no frame can be read", where=video, remedy=remedy)
    import pandas as pd

    from explllm.faces.boxes import select_faces
    from explllm.faces.crop import DEFAULT_MARGIN, face_crop
    from explllm.models.explllm import ExpLLM

    finder, lines = open_detector(detector)
    network = ExpLLM.from_pretrained(folder, device=device)
    for line in [*([] if model else [f"model: {folder}"]), *lines]:
        sys.stderr.write(f"{line}\n")
    margin = DEFAULT_MARGIN if network.config.margin is None else network.config.margin
    rows: list[dict[str, Any]] = []
    total = frame_count(video, every, seconds)
    frames = track(chain([first], frames), f"watching {Path(video).name}", total)

    def keep() -> str:
        """Write the results of the finished frames."""
        of_all = "" if total is None else f" of about {total:,}"
        if not rows:
            return f"0{of_all} frames are done."
        found = _write(pd.DataFrame(rows), out, picture)
        return f"{len(rows):,}{of_all} frames are done, {found:,} with a face: {out}."

    with keep_finished(keep):
        while batch := list(islice(frames, batch_size)):
            batch_rows, crops = [], []
            for now, frame in batch:
                row: dict[str, Any] = {"seconds": round(now, 3), "expression": None, "confidence": None}
                batch_rows.append(row)
                if finder is None:
                    crops.append((row, frame))
                elif faces := select_faces(finder.detect(frame), "largest", frame.size):
                    row |= dict(zip("xywh", faces[0].box, strict=True))
                    crops.append((row, face_crop(frame, faces[0].box, margin)))
            answers = network.recognize([crop for _, crop in crops], batch_size) if crops else []
            for (row, _), answer in zip(crops, answers, strict=True):
                row |= {"expression": str(answer.expression), "confidence": answer.confidence}
                row |= {f"p_{label}": share for label, share in answer.probabilities.items()}
            rows += batch_rows
    found = _write(pd.DataFrame(rows), out, picture)
    sys.stderr.write(f"{len(rows)} frames, {found} with a face: {out}\n")
    return int(found == 0)


def _write(table: pd.DataFrame, out: Path, picture: Path | None) -> int:
    """Write the table and, if a frame shows a face, the picture; return the number of frames that show a face."""
    from PIL import Image

    from explllm.report.timeline import timeline_plot

    with atomic_write(out, keep=True) as partial:
        if out.suffix.lower() == ".csv":
            table.to_csv(partial, index=False)
        elif out.suffix.lower() == ".jsonl":
            table.to_json(partial, orient="records", lines=True)
        else:
            table.to_parquet(partial, index=False)
    found = int(table["expression"].notna().sum())
    if picture is not None and found:
        with atomic_write(picture) as partial:
            Image.open(BytesIO(timeline_plot(table).png)).convert("RGB").save(partial)
    return found
