"""The commands ``explllm faces`` and ``explllm aus``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from explllm.commands.parser import Parser, at_least
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.manifest import SUFFIXES, Manifest
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.faces.jobs import JobOptions, Result, file_sha256, partial_path, read_results, run_job

_RESUME = """What is done is kept in OUT.partial.jsonl until the manifest is written whole: a run that was stopped or
killed goes on by the same command. An image that cannot be used is a row with its reason; the exit status is then 1."""

_FACES = f"""Find the face of each row of a manifest with an SCRFD detector, and write its box: x, y, width, height in
pixels of the upright image (turned as its EXIF orientation says). Rows that have a box keep it.

  explllm faces data.parquet -o faces.parquet --detector scrfd_10g_bnkps.onnx
  explllm faces data.parquet -o faces.parquet --detector buffalo_l/ --which all --crops crops/

{_RESUME}"""

_AUS = f"""Estimate 24 action units for each row of a manifest, from the face in its box, or from the whole image where
a row has no box. Rows that have action units keep them. Units that an estimator does not know are named in the column
action_units_missing, and their intensity says 0.

  explllm aus faces.parquet -o aus.parquet --landmarker face_landmarker.task
  explllm aus faces.parquet -o aus.parquet --onnx runs/aus_feafa/au_regressor.onnx

{_RESUME}"""


def detect_command(arguments: list[str]) -> int | None:
    """Run ``explllm faces``.

    Args:
        arguments: The command line after ``faces``.

    Returns:
        The exit status: 1 if an image could not be used.

    Raises:
        InputError: If the user made a mistake, or more images than ``--max-bad`` cannot be used.
    """
    options = _faces_parser().parse_args(arguments)
    manifest, out = _begin(options)
    from explllm.faces.detection import DetectionJob, add_faces, check_crop_names, group_by_image

    work = DetectionJob(
        Path(options.detector),
        which=options.which,
        redo=options.redo,
        input_size=options.input_size,
        threshold=options.threshold,
        margin=options.margin,
        crops=None if options.crops is None else Path(options.crops),
        provider=options.provider,
        threads=_threads(options.workers),
    )
    detector = work.open_detector()
    _say(detector.runs_on)
    # In a folder, the file that is an SCRFD was looked for; the workers need not do so again.
    work = replace(work, detector=detector.file)
    del detector
    items = group_by_image(manifest)
    if options.crops is not None:
        check_crop_names(items)
    settings = {
        "detector": file_sha256(work.detector),
        "crops": options.crops,
        **{name: getattr(options, name) for name in ("which", "redo", "input_size", "threshold", "margin")},
    }
    results = _run_job(items, work, settings, options, "faces")
    found = add_faces(manifest, results)
    found.write(out)
    _end(out, found, "face_status", results, ("found", "given"))
    if options.which == "all" and (several := len(found) - len(manifest)):
        sys.stdout.write(
            f"{several} rows were added for further faces; rows of an image with several say nothing of expression, "
            "identity, action units or text, as nobody knows of which face\n"
        )
    return _finish(out, results)


def action_units_command(arguments: list[str]) -> int | None:
    """Run ``explllm aus``.

    Args:
        arguments: The command line after ``aus``.

    Returns:
        The exit status: 1 if an image could not be used.

    Raises:
        InputError: If the user made a mistake, or more images than ``--max-bad`` cannot be used.
    """
    options = _aus_parser().parse_args(arguments)
    manifest, out = _begin(options)
    from explllm.faces.estimation import EstimationJob, add_action_units, rows_to_estimate
    from explllm.faces.estimators import estimator_options, selected_estimator

    chosen = {name: getattr(options, name) for name in ("landmarker", "onnx", "preset", "size")}
    spec = selected_estimator(estimator_options()(**chosen), required=True)
    assert spec is not None
    work = EstimationJob(spec, margin=options.margin, provider=options.provider, threads=_threads(options.workers))
    with closing(work.open_estimator()) as estimator:
        _say(estimator.runs_on)
        if estimator.training_data_note:
            _say([f"note: of the data that this model learned from: {estimator.training_data_note}"])
        source, chunk = estimator.name, estimator.batch_size
        # Said to the workers and kept with the results, which rest on it whoever has chosen it.
        work = replace(work, margin=work.margin_for(estimator))
    items = rows_to_estimate(manifest, options.redo)
    settings = {
        "estimator": file_sha256(options.landmarker or options.onnx),
        "source": source,
        "margin": work.margin,
        **{name: getattr(options, name) for name in ("preset", "size", "redo")},
    }
    results = _run_job(items, work, settings, options, "action units", chunk)
    estimated = add_action_units(manifest, items, results, source)
    estimated.write(out)
    _end(out, estimated, "action_units_status", results, ("estimated", "given"))
    return _finish(out, results)


def _begin(options: argparse.Namespace) -> tuple[Manifest, Path]:
    """Check the output before any work, and read the manifest."""
    out = Path(options.out)
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a manifest with the ending {out.suffix!r}", where=out, remedy=f"Use {', '.join(SUFFIXES)}.")
    if out.exists() and not options.overwrite:
        raise ConfigError("the manifest exists", where=out, remedy="Name another one, or pass --overwrite.")
    if options.root is not None and not Path(options.root).is_dir():
        raise MissingPathError("there is no such folder", where=options.root, remedy="Check --root.")
    return Manifest.read(options.manifest, options.root), out


def _threads(workers: int) -> int:
    """Return the CPU threads of one worker's model: the workers share the cores."""
    from explllm.core.cpu import available_cpus

    return max(1, available_cpus() // workers)


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _run_job(
    items: Sequence[Any], work: Any, settings: dict[str, Any], options: argparse.Namespace, title: str, chunk: int = 1
) -> dict[int, Result]:
    """Work on all items, and return what became of them."""
    root = None if options.root is None else str(Path(options.root).resolve())
    settings = {"command": title, "manifest": file_sha256(options.manifest), "root": root, **settings}
    partial = partial_path(options.out)
    run_job(items, work, JobOptions(partial, settings, title, options.workers, chunk, options.max_bad))
    return read_results(partial)


def _end(out: Path, manifest: Manifest, column: str, results: dict[int, Result], good: Sequence[str]) -> None:
    """Name what could not be used, and count the rows."""
    bad = [result["bad"] for _, result in sorted(results.items()) if result["bad"] is not None]
    for reason in bad[:10]:
        sys.stderr.write(f"bad: {reason}\n")
    if len(bad) > 10:
        sys.stderr.write(f"bad: {len(bad) - 10} more; see the column {column}\n")
    if bad and len(bad) == len(results):
        sys.stderr.write(f"no image could be used: do the paths start from {manifest.root}? If not, pass --root\n")
    counts = Counter(manifest.frame[column])
    ordered = [*(name for name in good if name in counts), *sorted(name for name in counts if name not in good)]
    for name in ordered:
        sys.stdout.write(f"{counts[name]:9,}  {name}\n")
    sys.stdout.write(f"{len(manifest):9,}  rows in {out}; its images lie below {manifest.root}\n")


def _finish(out: Path, results: dict[int, Result]) -> int:
    partial_path(out).unlink()
    return int(any(result["bad"] is not None for result in results.values()))


def _faces_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="explllm faces", description=_FACES, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_manifests(parser)
    parser.add_argument(
        "--detector", required=True, metavar="FILE", help="an SCRFD detector (.onnx), or a folder with one"
    )
    parser.add_argument(
        "--which",
        choices=["largest", "central", "all"],
        default="largest",
        help="the face of an image with several; all: a row for each (default: largest)",
    )
    parser.add_argument("--redo", action="store_true", help="search again where a row has a box")
    parser.add_argument(
        "--threshold", type=float, default=0.5, metavar="X", help="least score of a face (default: 0.5)"
    )
    parser.add_argument(
        "--input-size", type=at_least(32), metavar="N", help="pixels the detector sees, if it takes any size (640)"
    )
    parser.add_argument("--crops", metavar="DIR", help="write each face as a square JPEG there; column crop names it")
    _add_running(parser)
    return parser


def _aus_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="explllm aus", description=_AUS, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_manifests(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--landmarker", metavar="FILE", help="MediaPipe's face_landmarker.task: blendshapes, mapped")
    which.add_argument("--onnx", metavar="FILE", help="a model with 24 outputs in FEAFA's order")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="image preset that the ONNX model was trained with (default: what its file says, else small)",
    )
    parser.add_argument("--size", type=at_least(1), metavar="N", help="its input in pixels (default: its own)")
    parser.add_argument("--redo", action="store_true", help="estimate again where a row has action units")
    _add_running(parser, margin=None, default=f"that of the ONNX model's file, else {DEFAULT_MARGIN:g}")
    return parser


def _add_manifests(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="M", help="a manifest")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="the manifest to write (.parquet, .csv, .jsonl)"
    )
    parser.add_argument("--root", metavar="DIR", help="the folder that image paths start from (default: that of M)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT")


def _add_running(
    parser: argparse.ArgumentParser, margin: float | None = DEFAULT_MARGIN, default: str = f"{DEFAULT_MARGIN:g}"
) -> None:
    parser.add_argument(
        "--margin",
        type=at_least(-0.4, float),
        default=margin,
        metavar="X",
        help=f"around a box when a face is cut out, as a share of its longer side (default: {default})",
    )
    parser.add_argument("--workers", type=at_least(1), default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--max-bad", type=at_least(0), metavar="N", help="stop after more unusable images than N (default: never)"
    )
    parser.add_argument(
        "--provider", choices=["auto", "cpu", "cuda"], default="auto", help="where ONNX models run (default: auto)"
    )
