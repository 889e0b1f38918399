"""The command ``explllm reliability``."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from explllm.commands.outputs import check_ending, check_new, check_replaces_none, check_root
from explllm.commands.parser import Option
from explllm.commands.streaming import EstimatorOptions
from explllm.faces.estimators import selected_estimator

if TYPE_CHECKING:
    import pandas as pd


def reliability(
    manifest: Path,
    *,
    estimator: EstimatorOptions,
    out: Annotated[Path | None, Option(default="printed only")] = None,
    overwrite: bool = False,
    root: Annotated[Path | None, Option(default="the manifest's")] = None,
    faces: Annotated[int, Option(minimum=2)] = 500,
    seed: Annotated[int, Option(minimum=0, maximum=2**32 - 1)] = 0,
) -> None:
    """Measure how reliable each action unit of an estimator is.

    Each face and its mirror image are measured: a reliable unit gives the same value for both, with left and right
    swapped, and is stronger in the expressions it belongs to. The manifest needs labeled faces.

      explllm reliability faces.parquet --landmarker face_landmarker.task

    Args:
        manifest: A manifest with expressions.
        estimator: The estimator and its options.
        out: Write the table to this CSV file.
        overwrite: Replace an existing OUT.
        root: Folder that image paths are relative to.
        faces: Maximum number of faces to measure, chosen at random.
        seed: Random seed for choosing the faces.

    Raises:
        InputError: If the manifest or the estimator cannot be used, or OUT is the manifest or exists.
    """
    from PIL import ImageOps

    from explllm.core.errors import ConfigError, InputError
    from explllm.core.files import atomic_write, check_writable
    from explllm.core.manifest import Manifest
    from explllm.core.progress import track
    from explllm.drawn_faces.prototypes import PROTOTYPES
    from explllm.faces.crop import DEFAULT_MARGIN, load_face
    from explllm.faces.reliability import unit_reliability

    spec = selected_estimator(estimator, required=True)
    assert spec is not None
    check_root(root)
    if out is not None:
        check_ending(out, (".csv",))
        check_replaces_none("--out", [out], [manifest], "the manifest")
        check_new(out, overwrite, "table")
        check_writable(out)
    elif overwrite:
        raise ConfigError("--overwrite has no effect without --out", remedy="Pass --out, or omit --overwrite.")
    table = Manifest.read(manifest, root)
    table.require("expression")
    sample = table.frame["expression"].dropna().index
    rows = sorted(sample.to_series().sample(min(faces, len(sample)), random_state=seed))
    plain, flipped, labels = [], [], []
    with closing(spec.open()) as opened:
        margin = DEFAULT_MARGIN if opened.margin is None else opened.margin
        for row in track(rows, "measuring action units", len(rows)):
            try:
                face = load_face(table.image_path(row), table.box(row), margin, 1024)
            except InputError as error:
                sys.stderr.write(f"bad: {error}\n")
                continue
            plain += opened.estimate([face])
            flipped += opened.estimate([ImageOps.mirror(face)])
            labels.append(table.frame["expression"][row])
    prototypes = {
        expression: {name for form in forms for names in (form.defining, form.one_sided) for name in _sides(names)}
        for expression, forms in PROTOTYPES.items()
    }
    result = unit_reliability(plain, flipped, labels, prototypes)
    _print(result)
    if out is not None:
        with atomic_write(out) as partial:
            result.to_csv(partial)


def _print(result: pd.DataFrame) -> None:
    """Print the table, with dashes for undefined values."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from explllm.core.console import print_table

    # The number of faces is the same for all units. Without that column, the table is at most 80 characters wide.
    faces, result = int(result["faces"].iloc[0]), result.drop(columns="faces")
    table = Table("action unit", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in result.columns:
        words = str(name).replace("_", " ").replace("correlation", "corr.").replace("difference", "diff.")
        table.add_column(words, justify="left" if name == "facs" else "right")
    for unit, *cells in result.itertuples():
        texts = ("-" if cell != cell else cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells)
        table.add_row(unit, *texts)
    console = Console(highlight=False)
    print_table(console, table)
    console.print(f"on {faces:,} faces and their mirror images")


def _sides(names: Any) -> set[str]:
    """Return the full names of units; a name without a side stands for the units of both sides."""
    from explllm.core.action_units import NAMES

    return {unit for name in names for unit in NAMES if unit in (name, f"Left {name}", f"Right {name}")}
