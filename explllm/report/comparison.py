"""The comparison of tested runs: terminal table, page and CSV file."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explllm.core.console import print_table
from explllm.core.files import atomic_write
from explllm.metrics.comparison import Comparison, Pair
from explllm.metrics.evaluation import single_class_warning
from explllm.report.confusion import NO_LABEL_COLUMN, Cell, ScoredFace, most_frequent_error, thumbnails
from explllm.report.page import MetricCard, render_page

_METRICS = {
    "accuracy": "accuracy",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "ece": "ECE",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "auroc": "AUROC",
}


def metric_rows(comparison: Comparison) -> list[list[str]]:
    """Return the metrics side by side: name, then the value of each run."""
    runs = comparison.runs
    rows = [["faces", *(f"{run.metrics['test/count']:,}" for run in runs)]]
    rows += [[title, *(_shown(run.metrics, name) for run in runs)] for name, title in _METRICS.items()]
    labels = list(dict.fromkeys(label for run in runs for label in run.metrics["test/labels"]))
    return rows + [[f"recall {label}", *(_shown(run.metrics, f"recall/{label}") for run in runs)] for label in labels]


def _shown(metrics: dict[str, Any], name: str) -> str:
    value, ends = metrics.get(f"test/{name}"), metrics.get(f"test/{name}_interval")
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def pair_sentences(comparison: Comparison) -> list[str]:
    """Return two sentences for each pair: whether the runs differ significantly, and how many faces each recognizes."""
    count, sentences = len(comparison.pairs), []
    for pair in comparison.pairs:
        corrected = f", {_p(pair.corrected)} corrected for {count} pairs" if count > 1 else ""
        p_value = f"p {_p(pair.p_value)}{corrected}"
        verdict = "a significant difference" if pair.corrected < 0.05 else "no significant difference"
        low, high = (f"{100 * end:+.1f}" for end in pair.interval)
        sentences.append(
            f"{pair.first} minus {pair.second}: {100 * pair.difference:+.1f} points of accuracy (95% interval {low} to "
            f"{high}), {verdict}: McNemar's test, {pair.method}, {p_value}. Of {len(comparison.faces)} faces, only "
            f"{pair.first} recognizes {pair.only_first}, only {pair.second} {pair.only_second}, both {pair.both}, and "
            f"neither {pair.neither}."
        )
    return sentences


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"= {value:.4f}"


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``compare.html``, and ``compare.csv`` with the faces on which the answers differ, to a folder."""
    differing = comparison.differing
    with atomic_write(folder / "compare.csv") as temporary:
        differing.to_csv(temporary, index=False)
    names = [run.name for run in comparison.runs]
    cells = agreement_cells(comparison)
    only_some = [row for row in cells if row[0].row.startswith("Only ")]
    page = render_page(
        "compare.html.jinja",
        names=names,
        notices=_notices(comparison),
        rows=metric_rows(comparison),
        pairs=[
            (f"{pair.first} minus {pair.second}", _cards(pair), sentence)
            for pair, sentence in zip(comparison.pairs, pair_sentences(comparison), strict=True)
        ],
        cells=cells,
        opened=most_frequent_error(only_some) or most_frequent_error(cells),
        faces=len(comparison.faces),
        differing=len(differing),
        left_out=comparison.left_out,
    )
    with atomic_write(folder / "compare.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


_ALL = "All correct"


def agreement_cells(comparison: Comparison) -> list[list[Cell]]:
    """Return the matrix that counts faces by the runs that recognize them and by true expression.

    Rows of faces that only some runs recognize come first. Cells show their faces, except in the row of faces that all
    runs recognize.
    """
    names = [run.name for run in comparison.runs]
    labels = list(dict.fromkeys(str(label) for run in comparison.runs for label in run.metrics["test/labels"]))
    faces, order = [], {}
    for row in comparison.faces.to_dict("records"):
        correct = tuple(bool(row[f"right {name}"]) for name in names)
        answers = [row[f"predicted {name}"] or NO_LABEL_COLUMN for name in names]
        if all(correct):
            group = _ALL
        elif any(correct):
            group = f"Only {' and '.join(name for name, right in zip(names, correct, strict=True) if right)} correct"
        else:
            group = f"All wrong, {'with different answers' if len(set(answers)) > 1 else 'with the same answer'}"
        order[group] = (not any(correct), all(correct), [not right for right in correct], group)
        lines = [
            ("right" if right else "wrong", f"{'✓' if right else '✗'} {answer} ({name})")
            for name, answer, right in zip(names, answers, correct, strict=True)
        ]
        # A run that was tested on another machine can have a different root.
        name, box = str(row["image"]), row.get("box")
        run = next((run for run in comparison.runs if (run.root / name).is_file()), comparison.runs[0])
        box = box if isinstance(box, list) else None
        faces.append(ScoredFace(run.root / name, name, group, row["expression"], lines, box, run.margin))
    counts = Counter((face.row, face.column) for face in faces)
    totals = Counter(face.column for face in faces)
    shown = thumbnails([face for face in faces if face.row != _ALL])
    return [
        [
            Cell(
                f"cell-{number}-{column}",
                group,
                label,
                counts[group, label],
                counts[group, label] / max(totals[label], 1),
                f"{group}, labeled {label}",
                group == _ALL,
                shown.get((group, label), []),
            )
            for column, label in enumerate(labels)
        ]
        for number, group in enumerate(sorted(order, key=order.__getitem__))
    ]


def _notices(comparison: Comparison) -> list[str]:
    """Return the warnings about the runs, without repetition."""
    notes = [run.metrics["training_data_note"] for run in comparison.runs if run.metrics.get("training_data_note")]
    for run in comparison.runs:
        metrics = {name.removeprefix("test/"): value for name, value in run.metrics.items()}
        if warning := single_class_warning(metrics):
            notes.append(f"{run.name}: one class only. {warning}")
    return list(dict.fromkeys(notes))


def _cards(pair: Pair) -> list[MetricCard]:
    low, high = (f"{100 * end:+.1f}" for end in pair.interval)
    points = f"points of accuracy, {pair.first} minus {pair.second}"
    return [
        MetricCard(points, f"{100 * pair.difference:+.1f}", f"{low} to {high} (95%)"),
        MetricCard("McNemar's test", f"p {_p(pair.p_value)}", pair.method),
        MetricCard(f"only {pair.first} correct", f"{pair.only_first:,}", "faces"),
        MetricCard(f"only {pair.second} correct", f"{pair.only_second:,}", "faces"),
    ]


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as values for JSON: each run's metrics, each pair's test, and the numbers of faces."""
    return {
        "runs": [{"name": run.name, "metrics": run.metrics} for run in comparison.runs],
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "faces": len(comparison.faces),
        "differing": len(comparison.differing),
        "left_out": comparison.left_out,
        "notes": _notices(comparison),
    }


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print metrics, significance and notes."""
    table = Table("", *(escape(run.name) for run in comparison.runs))
    for row in metric_rows(comparison):
        table.add_row(*row)
    print_table(console, table)
    if comparison.left_out:
        console.print(
            f"[bold]{comparison.left_out} faces are not scored in every run[/bold]; the lines below leave them out"
        )
    for sentence in pair_sentences(comparison):
        console.print(escape(sentence), highlight=False)
    console.print(
        f"{len(comparison.differing)} of {len(comparison.faces)} faces have different answers", highlight=False
    )
    for notice in _notices(comparison):
        console.print(f"[bold]Note:[/bold] {escape(notice)}", soft_wrap=True)
