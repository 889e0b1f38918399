"""The command ``explllm faces``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from explllm.commands import streaming
from explllm.commands.parser import Option
from explllm.faces.boxes import FaceChoice
from explllm.faces.crop import DEFAULT_MARGIN


def faces(
    manifest: Path,
    *,
    out: Path,
    detector: Path,
    which: FaceChoice = "largest",
    redo: bool = False,
    threshold: Annotated[float, Option(minimum=0, maximum=1)] = 0.5,
    input_size: Annotated[int | None, Option(minimum=32, default="640 if the detector accepts any size")] = None,
    crops: Path | None = None,
    margin: Annotated[float, Option(minimum=-0.4, maximum=3)] = DEFAULT_MARGIN,
    options: streaming.StreamingOptions,
) -> int:
    """Find the face for each row of a manifest, using an SCRFD detector.

    The box is x, y, width, height in pixels of the upright image (rotated according to its EXIF orientation). Existing
    boxes are kept unless --redo is given.

      explllm faces data.parquet -o faces.parquet --detector scrfd_10g_bnkps.onnx
      explllm faces data.parquet -o faces.parquet --detector DIR --which all

    Results are kept in OUT.partial.jsonl until the manifest is complete, so the same command resumes a run that was
    stopped or killed. If an image is unusable, its row states the reason and the exit status is 1.

    Args:
        manifest: A manifest.
        out: The manifest to write (.parquet, .csv, .jsonl).
        detector: An SCRFD detector (.onnx), or a folder that contains one.
        which: The face to use if an image has several; `all` writes a row for each face.
        redo: Also detect faces in rows that already have a box.
        threshold: Minimum score of a face.
        input_size: Width and height of the detector's input, in pixels.
        crops: Write each face as a square JPEG into this folder; the column `crop` names the file.
        margin: Margin added on each side of a face box before cropping, as a share of the longer side of the box.
        options: Root, workers and limits.

    Raises:
        InputError: If the user made an error, or more than --max_bad images cannot be used.
    """
    from explllm.faces.detection import FOUND, GIVEN, DetectionJob, DetectionTask

    source = streaming.open_manifest(manifest, out, options)
    job = DetectionJob(
        detector,
        which=which,
        redo=redo,
        input_size=input_size,
        threshold=threshold,
        margin=margin,
        crops=crops,
        provider=options.provider,
        threads=options.threads_per_worker,
        max_pixels=options.max_pixels,
    )
    opened = job.open_detector()
    streaming.print_lines(opened.runs_on)
    # If a folder was given, its SCRFD file has been found; the workers need not search again.
    task = DetectionTask(replace(job, detector=opened.file))
    del opened
    summary = streaming.process(source, out, task, options, (FOUND, GIVEN))
    if which == "all" and (added := summary.rows_out - summary.rows_in):
        sys.stdout.write(
            f"{added} rows were added for additional faces; rows of an image with several faces lose expression, "
            "identity, action units and text, because it is unknown which face they belong to\n"
        )
    return int(summary.bad > 0)
