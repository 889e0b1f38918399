"""The report of FEABench: terminal table and page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explllm.core.console import print_table
from explllm.core.files import atomic_write
from explllm.report.page import render_page
from explllm.report.published import BENCH_PUBLISHED


@dataclass(frozen=True)
class BenchRow:
    """The result of one model."""

    name: str
    relation: str
    """``trained on`` the test's data set, ``zero-shot`` or ``unknown``."""
    leaks: dict[str, int] | None
    """``images`` and ``people``: the number of test faces that share an image or a person with a training face;
    ``missing``: the number of training faces that could not be compared. None if the training faces are unknown."""
    unknown: str
    """What is unknown about the model's training faces; empty if nothing is."""
    metrics: dict[str, Any]
    """The result of `explllm.metrics.fea_bench.bench_metrics`."""


_METRICS = (
    ("labeled faces", ("expression", "count")),
    ("accuracy", ("expression", "accuracy")),
    ("macro recall", ("expression", "macro_recall")),
    ("AU F1, text", ("units_text", "mean_f1")),
    ("AU F1, likelihood", ("units_likelihood", "mean_f1")),
    ("reasoning parsed", ("reasoning", "parsed")),
    ("grounding F1", ("reasoning", "grounding_f1")),
    ("Exp-CoT Score", ("reasoning", "exp_cot_score")),
)


def summary_rows(rows: Sequence[BenchRow]) -> list[list[str]]:
    """Return one table row per model: its name, its relation to the data, and its metrics."""
    return [
        [row.name, row.relation, *(_shown(row.metrics.get(part, {}).get(name)) for _, (part, name) in _METRICS)]
        for row in rows
    ]


def unit_rows(rows: Sequence[BenchRow], part: str) -> list[list[str]]:
    """Return one table row per unit: its name, the number of faces that show it, then the F1 of each model.

    `part` is ``units_text`` or ``units_likelihood``. The result is empty if no model has this part.
    """
    scored = [row.metrics[part] for row in rows if part in row.metrics]
    if not scored:
        return []
    units = scored[0]["f1"]
    return [
        [unit, f"{scored[0]['active'][unit]:,}"]
        + [_shown(row.metrics[part]["f1"][unit]) if part in row.metrics else "–" for row in rows]
        for unit in units
    ]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def write_bench(rows: Sequence[BenchRow], report: dict[str, Any], note: str, out: Path) -> None:
    """Write ``bench.json`` and the page ``bench.html``.

    Args:
        rows: The models.
        report: ``manifest``; ``split``; ``faces``, the number of faces; ``active_from``; ``validation``, with the
            number of validation faces that were used (``faces``) and left out (``left_out``); and ``pending``, the
            names of models that have not been run yet.
        note: A caveat about the faces; may be empty.
        out: The folder.
    """
    models = [{"name": row.name, "data": row.relation, "leaks": row.leaks, "unknown": row.unknown} for row in rows]
    record = {**report, "models": [{**model, **row.metrics} for model, row in zip(models, rows, strict=True)]}
    with atomic_write(out / "bench.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    header = ["model", "data", *(name for name, _ in _METRICS)]
    names = [row.name for row in rows]
    parts = (("units_text", "F1 by text"), ("units_likelihood", "F1 by likelihood"))
    uncalibrated = [
        row.name
        for row in rows
        if "units_likelihood" in row.metrics and not row.metrics["units_likelihood"]["calibrated"]
    ]
    page = render_page(
        "bench.html.jinja",
        names=names,
        report=report,
        notices=_notices(rows, report, note),
        header=header,
        rows=summary_rows(rows),
        units=[(title, ["unit", "active faces", *names], unit_rows(rows, part)) for part, title in parts],
        uncalibrated=uncalibrated,
        published=[[one.model, one.setting, one.tested_on, one.metric, f"{one.value:g}"] for one in BENCH_PUBLISHED],
    )
    with atomic_write(out / "bench.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _notices(rows: Sequence[BenchRow], report: dict[str, Any], note: str) -> list[str]:
    notices = [note] if note else []
    if report["pending"]:
        notices.append(f"Not finished. Still to run: {', '.join(report['pending'])}.")
    for row in rows:
        leaks = row.leaks or {}
        for kind in ("images", "people"):
            if leaks.get(kind):
                notices.append(f"{row.name} was trained on the {kind} of {leaks[kind]:,} test faces.")
        if row.unknown:
            notices.append(f"{row.name}: {row.unknown}.")
        notices += _remarks(row)
    if count := report["validation"]["left_out"]:
        notices.append(f"{count:,} validation faces share an image or a person with the test faces and were not used.")
    return notices


def _remarks(row: BenchRow) -> list[str]:
    """Return the caveats about a model's metrics: unknown labels, unreadable probabilities, default thresholds."""
    likely = row.metrics.get("units_likelihood", {"thresholds": {}, "calibrated": [], "unreadable": 0})
    unknown = row.metrics.get("expression", {}).get("not_a_label", {})
    missing = [unit for unit in likely["thresholds"] if unit not in likely["calibrated"]]
    remarks = []
    if unknown:
        counts = ", ".join(f"{name} ({count:,})" for name, count in unknown.items())
        remarks.append(f"{row.name} does not know all expressions. Faces that count as wrong: {counts}.")
    if likely["unreadable"]:
        remarks.append(f"{row.name}: {likely['unreadable']:,} values are not probabilities and count as missing.")
    if likely["calibrated"] and missing:
        remarks.append(f"{row.name}: no validation face shows {', '.join(missing)}; the likelihood threshold is 0.5.")
    return remarks


def print_bench(console: Console, rows: Sequence[BenchRow]) -> None:
    """Print one block per model, because a single table would be wider than many terminals."""
    for row, cells in zip(rows, summary_rows(rows), strict=True):
        table = Table(title=escape(f"{row.name} ({row.relation})"), title_justify="left", show_header=False)
        for (name, _), value in zip(_METRICS, cells[2:], strict=True):
            table.add_row(name, value)
        print_table(console, table)
