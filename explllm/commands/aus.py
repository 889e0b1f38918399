"""The command ``explllm aus``."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from explllm.commands import streaming
from explllm.commands.parser import Option
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.faces.estimators import selected_estimator


def aus(
    manifest: Path,
    *,
    out: Path,
    estimator: streaming.EstimatorOptions,
    redo: bool = False,
    margin: Annotated[
        float | None,
        Option(minimum=-0.4, maximum=3, default=f"from the model's file, otherwise {DEFAULT_MARGIN:g}"),
    ] = None,
    tta: bool = False,
    options: streaming.StreamingOptions,
) -> int:
    """Estimate 24 action units for each row of a manifest.

    The estimator sees the face in the row's box, or the whole image if the row has no box. Rows in which `faces` found
    no face are skipped. Existing action units are kept unless --redo is given. Units that an estimator does not measure
    are listed in the column `action_units_missing` and have intensity 0. At the end, the mean intensity of each unit is
    printed with its FACS code.

      explllm aus faces.parquet -o aus.parquet --landmarker face_landmarker.task
      explllm aus faces.parquet -o aus.parquet --onnx runs/aus/au_regressor.onnx

    Results are kept in OUT.partial.jsonl until the manifest is complete, so the same command resumes a run that was
    stopped or killed. If an image is unusable, its row states the reason and the exit status is 1.

    Args:
        manifest: A manifest.
        out: The manifest to write (.parquet, .csv, .jsonl).
        estimator: The estimator and its options.
        redo: Also estimate rows that already have action units.
        margin: Margin added on each side of a face box before cropping, as a share of the longer side of the box.
        tta: Average the estimates of each face and its mirror image; the estimator's name in the column
            `action_units_source` then ends in +flip.
        options: Root, workers and limits.

    Raises:
        InputError: If the user made an error, or more than --max_bad images cannot be used.
    """
    from explllm.faces.estimation import ESTIMATED, GIVEN, EstimationJob, EstimationTask

    spec = selected_estimator(estimator, required=True)
    assert spec is not None
    source = streaming.open_manifest(manifest, out, options)
    job = EstimationJob(
        spec,
        margin=margin,
        tta=tta,
        provider=options.provider,
        threads=options.threads_per_worker,
        max_pixels=options.max_pixels,
    )
    with closing(job.open_estimator()) as opened:
        streaming.print_lines(opened.runs_on)
        if opened.training_data_note:
            streaming.print_lines([f"note: training data of this model: {opened.training_data_note}"])
        # The job records the margin even if it comes from the model's file, because results depend on it.
        job = replace(job, margin=job.margin_for(opened))
        task = EstimationTask(job, opened.name + "+flip" * tta, opened.batch_size, redo)
    summary = streaming.process(source, out, task, options, (ESTIMATED, GIVEN))
    _print_means(out)
    return int(summary.bad > 0)


def _print_means(manifest: Path) -> None:
    """Print the mean intensity of each unit over the rows in which it was measured."""
    from explllm.core.action_units import NAMES, with_facs
    from explllm.core.manifest_chunks import ManifestFile

    sums, counts = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0)
    for _, chunk in ManifestFile(manifest):
        frame = chunk.frame
        for units, missing in zip(frame["action_units"], frame["action_units_missing"], strict=True):
            if not isinstance(units, list):
                continue
            unmeasured = missing.split(", ") if isinstance(missing, str) else ()
            for name, value in zip(NAMES, units, strict=True):
                if name not in unmeasured:
                    sums[name] += value
                    counts[name] += 1
    sys.stdout.write("mean intensity of each action unit:\n")
    for name in NAMES:
        mean = f"{sums[name] / counts[name]:.3f}" if counts[name] else "not measured"
        sys.stdout.write(f"  {with_facs(name):31} {mean}\n")
