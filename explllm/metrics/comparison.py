"""Comparison of runs that were tested on the same faces."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from explllm.core.errors import ConfigError, InputError, ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE
from explllm.core.manifest import Manifest
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.metrics.answers import Answers
from explllm.metrics.bootstrap import Interval, difference_interval
from explllm.metrics.significance import holm, mcnemar


@dataclass(frozen=True)
class Run:
    """The test results of one run."""

    name: str
    metrics: dict[str, Any]
    """The content of ``metrics.json``."""
    faces: pd.DataFrame
    """Scored faces: ``image``, ``box``, ``expression``, ``predicted``, ``right``, ``truth_probability``."""
    unscored: set[str]
    """Faces of the test that are not scored, because they are unreadable or their true expression is not a class."""

    @property
    def root(self) -> Path:
        """Folder of the images when the run was tested."""
        return Path(self.metrics["test/root"])

    @property
    def margin(self) -> float:
        """Margin that the test added around boxes."""
        return float(self.metrics.get("test/margin", DEFAULT_MARGIN))


@dataclass(frozen=True)
class Pair:
    """Two runs, compared on the faces that are scored in every compared run."""

    first: str
    second: str
    both: int
    """Number of faces that both runs recognize."""
    only_first: int
    only_second: int
    neither: int
    difference: float
    """Accuracy of the first run minus that of the second."""
    interval: Interval
    """95% interval of the difference, from a paired bootstrap."""
    p_value: float
    """Two-sided p-value of McNemar's test."""
    method: str
    """``exact`` or ``continuity-corrected``."""
    corrected: float
    """The p-value after Holm's correction for the number of pairs."""


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_runs`."""

    runs: list[Run]
    pairs: list[Pair]
    faces: pd.DataFrame
    """Faces that are scored in every run, one row each: ``image``, ``box`` if any face has one, ``expression``, and for
    each run ``predicted NAME``, ``right NAME`` and ``p NAME``, the probability of the true expression."""
    differing: pd.DataFrame
    """The rows of `faces` on which the runs' answers differ."""
    left_out: int
    """Number of faces that are scored in some runs but not in all."""


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the test results of two or more runs.

    Runs are named after their folders. If two folders have the same name, all runs are named by their paths.

    Raises:
        InputError: If there are fewer than two folders, a folder is given twice or has no complete test results, or its
            metrics and predictions come from different tests.
    """
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < max(len(paths), 2):
        raise ConfigError(
            f"not two or more different runs: {', '.join(folders)}", remedy="Pass two or more different runs."
        )
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare two or more runs.

    Raises:
        InputError: If the runs were tested on different faces or with different labels, or no face is scored in all.
    """
    for other in runs[1:]:
        _check_same_faces(runs[0], other)
    shared = [face for face in runs[0].faces.index if all(face in run.faces.index for run in runs[1:])]
    if not shared:
        raise ManifestError(
            "no face is scored in all runs", remedy="Compare runs whose models have the same label set."
        )
    first = runs[0].faces.loc[shared]
    known = [name for name in ("image", "box", "expression") if first[name].notna().any()]
    columns: dict[str, Any] = {name: first[name] for name in known}
    for run in runs:
        rows = run.faces.loc[shared]
        columns |= {
            f"predicted {run.name}": rows["predicted"],
            f"right {run.name}": rows["right"],
            f"p {run.name}": rows["truth_probability"],
        }
    faces = pd.DataFrame(columns)
    answers = faces[[f"predicted {run.name}" for run in runs]].fillna("")
    tests = [_pair(faces, first.name, second.name) for first, second in combinations(runs, 2)]
    corrected = holm([test["p_value"] for test in tests])
    return Comparison(
        runs=list(runs),
        pairs=[Pair(**test, corrected=value) for test, value in zip(tests, corrected, strict=True)],
        faces=faces,
        differing=faces[answers.nunique(axis=1) > 1],
        left_out=len({face for run in runs for face in run.faces.index} - set(shared)),
    )


def _read(folder: Path, name: str) -> Run:
    metrics_file, table_file = folder / METRICS_FILE, folder / PREDICTIONS_FILE
    if not folder.is_dir():
        raise MissingPathError("the run does not exist", where=folder, remedy="Check the path.")
    for path in (metrics_file, table_file):
        if not path.is_file():
            raise MissingPathError("the run has no test results", where=path, remedy="Run `explllm test` first.")
    try:
        metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
        if not isinstance(metrics, dict):
            raise ValueError("expected a JSON object")
    except ValueError as error:  # UnicodeDecodeError too
        raise InputError(
            f"the metrics cannot be read ({error})", where=metrics_file, remedy="Run `explllm test` again."
        ) from error
    for key in ("test/accuracy", "test/labels", "test/root"):
        if key not in metrics:
            raise InputError(f"no {key}", where=metrics_file, remedy="Run `explllm test` again.")
    table = Manifest.read(table_file).frame
    labels = [Expression(label) for label in metrics["test/labels"]]
    try:
        answers = Answers.from_table(table, labels, unknown_labels="leave_out")
    except InputError as error:
        raise InputError(error.found, where=table_file, remedy="Run `explllm test` again.") from error
    # `predict` writes a table of the same name.
    if len(answers.rows) != metrics["test/count"] or int(answers.correct.sum()) != round(
        metrics["test/accuracy"] * metrics["test/count"]
    ):
        raise InputError(
            f"the predictions do not belong to the test in {metrics_file.name}",
            where=table_file,
            remedy="Run `explllm test` again.",
        )
    keys = [_key(row) for row in table.to_dict("records")]
    counted = [keys[row] for row in answers.rows]
    faces = pd.DataFrame(
        {
            "image": table.loc[answers.rows, "image"].to_list(),
            "box": table.reindex(columns=["box"]).loc[answers.rows, "box"].to_list(),
            "expression": [str(labels[place]) for place in answers.targets],
            "predicted": answers.names,
            "right": answers.correct,
            "truth_probability": answers.truth_probability,
        },
        index=counted,
    )
    return Run(name, metrics, faces, set(keys) - set(counted))


def _key(row: dict[Any, Any]) -> str:
    """Return the key of a face: the image, and the box if there is one."""
    box = row.get("box")
    return str(row["image"]) if not isinstance(box, list) else f"{row['image']} {[round(side, 2) for side in box]}"


def _check_same_faces(first: Run, other: Run) -> None:
    ones, others = ({*run.faces.index} | run.unscored for run in (first, other))
    if ones != others:
        only = [(run.name, sorted(faces)) for run, faces in ((first, ones - others), (other, others - ones)) if faces]
        difference = " and ".join(f"{len(faces)} only in {name} (first {faces[0]})" for name, faces in only)
        raise InputError(
            f"{first.name} and {other.name} were tested on different faces: {difference}",
            remedy="Test both runs with the same --data.",
        )
    both = first.faces.join(other.faces["expression"], rsuffix=" other", how="inner")
    wrong = both[both["expression"] != both["expression other"]]
    if len(wrong):
        face = wrong.iloc[0]
        raise InputError(
            f"{first.name} and {other.name} were tested with different labels: {len(wrong)} faces, such as "
            f"{face['image']}, labeled {face['expression']} in the first and {face['expression other']} in the second",
            remedy="Test both runs with the same --data.",
        )


def _pair(faces: pd.DataFrame, first: str, second: str) -> dict[str, Any]:
    one, two = faces[f"right {first}"], faces[f"right {second}"]
    counts = {
        "both": int((one & two).sum()),
        "only_first": int((one & ~two).sum()),
        "only_second": int((~one & two).sum()),
        "neither": int((~one & ~two).sum()),
    }
    test = mcnemar(counts["only_first"], counts["only_second"])
    return {
        "first": first,
        "second": second,
        **counts,
        "difference": (counts["only_first"] - counts["only_second"]) / len(faces),
        "interval": difference_interval(**counts),
        "p_value": test.p_value,
        "method": test.method,
    }
