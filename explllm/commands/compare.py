"""What ``explllm compare`` does: tests of the same faces side by side, and the faces on which they differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explllm.core.errors import ImageError, MissingPathError
from explllm.core.files import atomic_write
from explllm.metrics.comparison import Comparison, Pair, Run, compare_runs, read_runs
from explllm.metrics.evaluation import single_class_warning
from explllm.report.explained import thumbnail_url
from explllm.report.page import MetricCard, render_page

SHOWN = 80
"""Faces on the contact sheet at most; the CSV file names all."""

_FIGURES = ("accuracy", "macro_recall", "macro_f1", "ece", "nll", "brier", "auroc")


def compare(runs: Sequence[str], out: str | None = None) -> Comparison:
    """Compare tests of the same faces; print figures and significance, write ``compare.html`` and ``compare.csv``.

    Args:
        runs: Two or more run folders that ``explllm test`` has been run in.
        out: The folder to write; by default ``compare-A-B`` beside the first run.

    Returns:
        The comparison.

    Raises:
        InputError: If a run lacks its test, its two files tell of different tests, or the runs were tested on
            different faces or against different labels; the message names what differs.
    """
    comparison = compare_runs(read_runs(runs))
    names = [run.name for run in comparison.runs]
    folder = Path(out) if out else Path(runs[0]).parent / "-".join(["compare", *(Path(name).name for name in names)])
    _write(comparison, folder)
    _print(Console(), comparison, folder)
    return comparison


def metric_rows(comparison: Comparison) -> list[list[str]]:
    """Return the figures side by side: name, then each run's."""
    runs = comparison.runs
    rows = [["faces", *(f"{run.metrics['test/count']:,}" for run in runs)]]
    for name in _FIGURES:
        rows.append([_NAMES.get(name, name.replace("_", " ")), *(_shown(run.metrics, name) for run in runs)])
    labels = list(dict.fromkeys(label for run in runs for label in run.metrics["test/labels"]))
    return rows + [[f"recall {label}", *(_shown(run.metrics, f"recall/{label}") for run in runs)] for label in labels]


_NAMES = {
    "macro_f1": "macro F1",
    "ece": "ECE",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "auroc": "AUROC",
}


def _shown(metrics: dict[str, Any], name: str) -> str:
    value, ends = metrics.get(f"test/{name}"), metrics.get(f"test/{name}_interval")
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def pair_sentences(comparison: Comparison) -> list[str]:
    """Say of each pair whether the runs differ by more than chance."""
    several = len(comparison.pairs) > 1
    sentences = []
    for pair in comparison.pairs:
        p_value = f"p {_p(pair.p_value)}" + (
            f", {_p(pair.corrected)} corrected for {len(comparison.pairs)} pairs" if several else ""
        )
        verdict = "more than chance explains" if pair.corrected < 0.05 else "not more than chance may explain"
        low, high = (f"{100 * end:+.1f}" for end in pair.interval)
        sentences.append(
            f"{pair.first} less {pair.second}: {100 * pair.difference:+.1f} points of accuracy (95% interval {low} to "
            f"{high}), {verdict}: McNemar's test, {pair.method}, {p_value}. Of {len(comparison.faces)} faces only "
            f"{pair.first} recognizes {pair.only_first}, only {pair.second} {pair.only_second}, both {pair.both}, "
            f"neither {pair.neither}."
        )
    return sentences


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"= {value:.4f}"


def _write(comparison: Comparison, folder: Path) -> None:
    differing = comparison.differing
    with atomic_write(folder / "compare.csv") as temporary:
        differing.to_csv(temporary, index=False)
    names = [run.name for run in comparison.runs]
    right = differing[[f"right {name}" for name in names]]
    kinds = [tuple(row) for row in right.itertuples(index=False, name=None)]
    # Where runs disagree on who is right there is most to see.
    present = sorted(set(kinds), key=lambda kind: (not any(kind), [not one for one in kind]))
    groups = []
    for kind in present:
        rows = differing[[one == kind for one in kinds]]
        recognize = " and ".join(name for name, one in zip(names, kind, strict=True) if one)
        title = f"Only {recognize} right" if recognize else "All wrong, in different ways"
        shown = [_on_sheet(comparison, row) for row in rows.head(SHOWN // len(present)).to_dict("records")]
        groups.append((title, len(rows), shown))
    page = render_page(
        "compare.html.jinja",
        names=names,
        notices=_notices(comparison),
        rows=metric_rows(comparison),
        pairs=[
            (f"{pair.first} less {pair.second}", _cards(pair), sentence)
            for pair, sentence in zip(comparison.pairs, pair_sentences(comparison), strict=True)
        ],
        groups=groups,
        faces=len(comparison.faces),
        differing=len(differing),
        shown=sum(len(shown) for _, _, shown in groups),
        left_out=comparison.left_out,
    )
    with atomic_write(folder / "compare.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _notices(comparison: Comparison) -> list[str]:
    """Return what must be said of the runs, each once: what their data are, and who predicts one class only."""
    said = [run.metrics["training_data_note"] for run in comparison.runs if run.metrics.get("training_data_note")]
    for run in comparison.runs:
        figures = {name.removeprefix("test/"): value for name, value in run.metrics.items()}
        if warning := single_class_warning(figures):
            said.append(f"{run.name}: one class only. {warning}")
    return list(dict.fromkeys(said))


def _cards(pair: Pair) -> list[MetricCard]:
    low, high = (f"{100 * end:+.1f}" for end in pair.interval)
    points = f"points of accuracy, {pair.first} less {pair.second}"
    return [
        MetricCard(points, f"{100 * pair.difference:+.1f}", f"{low} to {high} (95%)"),
        MetricCard("McNemar's test", f"p {_p(pair.p_value)}", pair.method),
        MetricCard(f"only {pair.first} right", f"{pair.only_first:,}", "faces"),
        MetricCard(f"only {pair.second} right", f"{pair.only_second:,}", "faces"),
    ]


def _on_sheet(comparison: Comparison, row: dict[Any, Any]) -> dict[str, Any]:
    """Return what the contact sheet shows of a face."""
    names = [run.name for run in comparison.runs]
    return {
        "image": row["image"],
        "expression": row["expression"],
        "answers": [(name, row[f"predicted {name}"] or "no label", row[f"right {name}"]) for name in names],
        "url": _thumbnail(comparison.runs, str(row["image"]), row.get("box")),
    }


def _thumbnail(runs: Sequence[Run], image: str, box: Any) -> str | None:
    """Return a face's picture from the first root that still has it."""
    for run in runs:
        try:
            return thumbnail_url(run.root / image, 128, box if isinstance(box, list) else None, run.margin)
        except (ImageError, MissingPathError):
            continue
    return None


def _print(console: Console, comparison: Comparison, folder: Path) -> None:
    table = Table("", *(escape(run.name) for run in comparison.runs))
    for row in metric_rows(comparison):
        table.add_row(*row)
    console.print(table)
    if comparison.left_out:
        console.print(
            f"[bold]{comparison.left_out} faces do not count in every run[/bold] and are left out of what follows"
        )
    for sentence in pair_sentences(comparison):
        console.print(escape(sentence), highlight=False)
    console.print(
        f"{len(comparison.differing)} of {len(comparison.faces)} faces are answered differently", highlight=False
    )
    for notice in _notices(comparison):
        console.print(f"[bold]Note:[/bold] {escape(notice)}", soft_wrap=True)
    console.print(f"page: {folder / 'compare.html'}", soft_wrap=True, markup=False)
    console.print(f"table: {folder / 'compare.csv'}", soft_wrap=True, markup=False)
