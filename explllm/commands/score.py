"""The command ``explllm score``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from explllm.commands.outputs import as_file_name, check_ending, check_no_model_options, check_replaces_none
from explllm.commands.parser import Option
from explllm.explanations.chain_of_thought import MAX_WORDS
from explllm.explanations.grounding import STRONG
from explllm.llm.settings import ChatSettings

if TYPE_CHECKING:
    from rich.console import Console


def score(
    generated: Path,
    *,
    reference: Path | None = None,
    judge: str = "offline",
    out: Path | None = None,
    as_json: Annotated[bool, Option("json")] = False,
    redo: Literal["failed"] | None = None,
    reliability: Path | None = None,
    chat: Annotated[ChatSettings, Option(skip=("model",))],
) -> int:
    """Evaluate existing texts and labels.

    Each text is evaluated on its own: form, agreement with the label, and grounding if action units are known. With
    true labels, the command also computes accuracy, macro recall and the other recognition metrics, from the column
    `predicted` if it exists, otherwise from the expressions named in the conclusions. With reference texts, a
    rule-based judge or a language model computes the Exp-CoT Score.

      explllm score runs/rafdb --reference cot.parquet --judge gpt-4o --max_cost 2

    The answers of a language model are kept in a ledger next to OUT (without --out, next to GENERATED), and none is
    paid for twice. The exit status is 1 if a text could not be judged.

    Args:
        generated: A manifest with texts, a run folder, or a list or result file of the released code (.json).
        reference: A table of reference texts or measured action units, joined by image and box.
        judge: A registered judge (offline uses rules), or the name of the language model that judges.
        out: Write the metrics of each text to this file, as JSON Lines (.jsonl).
        as_json: Print one JSON object.
        redo: `failed` discards the recorded answers for texts that could not be judged, and asks again.
        reliability: A table that `reliability -o` wrote; its weights and thresholds are applied to the action units.
        chat: Server, limits and prices.

    Raises:
        InputError: If a table lacks a column, no face is in both tables, the server refuses the first request, or OUT
            is one of the tables.
    """
    from explllm.core.reliability import UnitReliability
    from explllm.engine.runner import LEDGER
    from explllm.metrics.judges import find_judge
    from explllm.metrics.scoring import score_table

    if out is not None:
        check_ending(out, (".jsonl",))
        check_replaces_none("--out", [out], [generated, reference], "a table that is read")
    registered = find_judge(judge)
    if registered:
        check_no_model_options(chat, "Omit it, or name a language model with --judge.")
    ledger = None if registered else _run_folder(generated, judge, out) / LEDGER
    trust = None if reliability is None else UnitReliability.read(reliability)
    metrics = score_table(generated, reference, registered or replace(chat, model=judge), out, ledger, redo, trust)
    if as_json:
        sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
    else:
        _print(metrics, generated)
    return 1 if metrics.get("not_judged") else 0


def _run_folder(generated: Path, model: str, out: Path | None) -> Path:
    """Return the ledger's folder; each pair of a table and a judge has its own folder and its own budget."""
    table = Path(os.path.abspath(generated))  # abspath gives "." a name without resolving links
    name = table.name if table.is_dir() else table.stem
    return (out or table).parent / f"{name}.{as_file_name(model)}.run"


_NAMES = {
    "grounding_gain": "grounding gain",
    "grounding_f1_own": "  F1 of texts on their own faces",
    "grounding_f1_swapped": "  F1 of texts swapped within the predicted class",
    "self_contradiction": "texts that contradict themselves",
    "interpretation_denied": "interpretation names a denied action unit",
    "interpretation_unaffirmed": "interpretation names an unmentioned action unit",
    "complete": "all three sections",
    "words": "words on average",
    "over_limit": f"more than {MAX_WORDS} words",
    "agreement": "conclusion agrees with the predicted label",
    "undecided": "suggests no expression",
    "grounding_precision": "action units: precision",
    "grounding_recall": "action units: recall",
    "grounding_recall_strong": f"action units: recall at intensity {STRONG} and more",
    "grounding_f1": "action units: F1",
    "unsupported": "claims of absent action units",
    "side_errors": "claims on the wrong side, per text",
    "intensity_agreement": "correct intensity words",
}

_REASONS = 5
"""Maximum number of reasons to print for texts that are not judged."""


def _print(metrics: dict[str, Any], path: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from explllm.core.console import print_table

    console = Console(highlight=False)
    table = Table(title=f"{escape(str(path))}: {metrics['count']:,.0f} texts", title_justify="left")
    table.add_column("measured without a judge")
    table.add_column("", justify="right")
    for key, words in _NAMES.items():
        if metrics[key] is not None:
            interval = metrics.get(f"{key}_interval")
            value = f"{metrics[key]:.1f}" if key == "words" else f"{metrics[key]:.3f}"
            table.add_row(words, f"{value} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else value)
    if metrics["count"]:
        print_table(console, table)
    if labels := metrics.get("recognition"):
        _print_recognition(console, labels)
    if "judge" not in metrics:
        return
    if means_by_name := metrics.get("exp_cot_score"):
        _print_scores(console, means_by_name, metrics["judge"], path)
    if metrics["judge_cost"]:
        console.print(f"judging cost {metrics['judge_cost']:.2f} USD")
    for reason, count in list(metrics["not_judged_because"].items())[:_REASONS]:
        console.print(f"not judged: {count:,} ({reason})", markup=False)
    if (more := len(metrics["not_judged_because"]) - _REASONS) > 0:
        console.print(f"not judged for {more:,} more reasons; -o FILE lists them")
    if metrics["not_judged"] and metrics["judge_ledger"]:
        # Every answer of a judge was paid for, even if it cannot be parsed.
        console.print(f"recorded answers are not paid for again; they are in {escape(metrics['judge_ledger'])}")
    if metrics["without_reference"]:
        console.print(f"without a reference: {metrics['without_reference']:,}")
    if metrics["joined_by_file_name"]:
        console.print(f"joined by file name alone: {metrics['joined_by_file_name']:,}")


def _print_scores(console: Console, means_by_name: dict[str, float], judge: str, path: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from explllm.core.console import print_table
    from explllm.report.published import EXP_COT_SCORES

    scores = Table(title=f"Exp-CoT Score; judge: {escape(judge)}", title_justify="left")
    for column in ("", "key observations", "interpretation", "conclusion", "score", "texts"):
        scores.add_column(column, justify="right" if column else "left")
    means = [means_by_name[name] for name in ("key_observations", "interpretation", "conclusion", "score")]
    scores.add_row(escape(path.stem), *(f"{value:.2f}" for value in means), f"{means_by_name['count']:,}")
    scores.add_section()
    for name, values in EXP_COT_SCORES.items():
        scores.add_row(f"{name} (published)", *(f"{value:.2f}" for value in values), "100")
    print_table(console, scores)
    console.print(
        "The published scores are GPT-4o's judgments (paper, Table III); scores of other judges are not comparable."
    )


def _print_recognition(console: Console, labels: dict[str, Any]) -> None:
    from explllm.report.terminal import print_metrics

    source = "the column predicted" if labels["by"] == "predicted" else "the conclusion of the texts"
    console.print(f"\nrecognition, by {source}:")
    shown = {**labels, "unreadable": []}
    print_metrics(console, {f"{labels['by']}/{name}": value for name, value in shown.items()}, labels["by"])
    if labels["unanswered"]:
        console.print(f"{labels['unanswered']:,} faces have no answer and do not count: see the column unreadable")
    if labels["unlabeled"]:
        console.print(f"{labels['unlabeled']:,} faces without a true label do not count")
