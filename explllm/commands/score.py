"""What ``explllm score`` does: measure texts and labels made elsewhere, and have a judge hold texts to references."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explllm.commands.cot import as_file_name
from explllm.core.errors import ConfigError, InputError, ManifestError
from explllm.core.expressions import Expression, LabelSet
from explllm.core.files import atomic_write
from explllm.core.manifest import Manifest
from explllm.engine.runner import LEDGER
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.grounding import STRONG
from explllm.explanations.records import Record, expression_or_none, read_table, records
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatFailure, OutOfBudget, Stopped
from explllm.llm.settings import ChatSettings
from explllm.metrics.answers import Answers
from explllm.metrics.chain_of_thought import TextCounts, sum_counts, summarize_counts, text_counts
from explllm.metrics.evaluation import recognition_metrics
from explllm.metrics.exp_cot_score import Judgment, exp_cot_score
from explllm.metrics.judges import Judge
from explllm.metrics.judges.chat import ChatJudge
from explllm.metrics.judges.rules import OfflineJudge
from explllm.report.published import EXP_COT_SCORES
from explllm.report.terminal import print_metrics


def score(
    generated: Path,
    reference: Path | None,
    judge: ChatSettings | None,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Measure texts and labels, judge the texts, and print the figures.

    Texts are measured by themselves: form, agreement with the label said first, and grounding, where action units are
    known from the table or from the reference. Where the true labels are known, so are accuracy, macro recall and all
    other figures of recognition: of the column ``predicted``, else of the expressions that the texts arrive at. An
    answer that is no label counts as wrong.

    Args:
        generated: A manifest with texts, a run folder, whose ``predictions.parquet`` is taken, or a list or result of
            the authors' released code; see `explllm.explanations.records.read_table`.
        reference: The same with reference texts, joined by face; None leaves the judge out, unless the table holds the
            references itself, as the authors' results do.
        judge: The language model that judges; None for the offline judge.
        out: Where the figures of each text go, as JSON Lines; None for nowhere. A language model's answers stand in
            a ledger beside it, else beside `generated`, that is this table's and this judge's own
            (``TABLE.JUDGE.run/ledger.sqlite``), and none is paid for twice.
        as_json: Print one JSON object.

    Returns:
        1 if some text could not be judged, else 0. What was judged until a budget or a server ended it is kept.

    Raises:
        InputError: If a table lacks something, no face stands in both, or the server refuses the first request.
    """
    table = read_table(generated)
    texts = list(records(table))
    pairs, by_file_name = _pairs(texts, generated, reference)
    units = {text.name: other.action_units for text, other in pairs}
    counts = [text_counts(text.text, text.predicted, text.action_units or units.get(text.name)) for text in texts]
    figures: dict[str, Any] = summarize_counts(sum_counts(counts))
    if recognition := _recognition(table):
        figures["recognition"] = recognition
    elif not texts:
        raise ManifestError(
            "neither texts nor labels to measure",
            where=generated,
            remedy="Give a column `cot`, or `predicted` and `expression`.",
        )
    judgments: dict[str, Judgment | str] = {}
    if judge is not None and not pairs:
        raise ConfigError(
            "there is nothing to judge the texts by", remedy="Give texts to compare them with: --reference."
        )
    if pairs:
        folder = None if judge is None else _run_folder(generated, judge.model, out)
        found, figures["judge"], figures["judge_cost"] = asyncio.run(_judge(pairs, judge, folder))
        judgments = {text.name: one for (text, _), one in zip(pairs, found, strict=True)}
        # Of no judgment there is no mean, and JSON has no word for that.
        if judged := [one for one in found if isinstance(one, Judgment)]:
            figures["exp_cot_score"] = exp_cot_score(judged)
        reasons = Counter(one for one in found if isinstance(one, str))
        figures["not_judged"], figures["not_judged_because"] = reasons.total(), dict(reasons.most_common())
        figures["judge_ledger"] = None if folder is None else str(folder / LEDGER)
        figures["without_reference"] = len(texts) - len(pairs)
        figures["joined_by_file_name"] = by_file_name
    if out is not None:
        _write(out, texts, counts, judgments)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        _print(figures, generated)
    return 1 if figures.get("not_judged") else 0


def _run_folder(generated: Path, model: str, out: Path | None) -> Path:
    """Return the folder of the ledger: another table's or judge's must not count against this one's budget."""
    table = Path(os.path.abspath(generated))  # the run folder "." has a name too; a link stays where it is
    name = table.name if table.is_dir() else table.stem
    return (out or table).parent / f"{name}.{as_file_name(model)}.run"


async def _judge(
    pairs: Sequence[tuple[Record, Record]], settings: ChatSettings | None, folder: Path | None
) -> tuple[list[Judgment | str], str, float]:
    """Return the judgments, who judged, and what the ledger says it has cost in USD."""
    if settings is None or folder is None:
        offline = OfflineJudge()
        return [offline.compare(one.text, other.text) for one, other in pairs], offline.name, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / LEDGER) as ledger:
        async with ChatClient(settings, ledger) as client:
            await client.check()
            judge = ChatJudge(client, settings.model)
            work = (_one(judge, one, other) for one, other in pairs)
            found = list(await asyncio.gather(*work))
        return found, judge.name, ledger.totals().cost


async def _one(judge: Judge, one: Record, other: Record) -> Judgment | str:
    """Return a judgment, or why there is none: what was paid for before must not be lost."""
    try:
        return await judge.judge(one.text, other.text, one.name)
    except ChatFailure as failure:
        return failure.reason
    except OutOfBudget:
        return "the budget is used up"
    except (Stopped, InputError) as stop:
        return str(stop)


def _pairs(texts: Sequence[Record], generated: Path, reference: Path | None) -> tuple[list[tuple[Record, Record]], int]:
    """Join texts with their references, none without a reference; return how many a file name alone joins as well."""
    if reference is None:
        own = ((text, text.reference) for text in texts)
        return [(text, Record(text.image, text.box, other)) for text, other in own if other is not None], 0
    pairs, by_file_name = _joined(texts, list(records(read_table(reference))))
    if not pairs:
        raise ManifestError(
            f"no image of {generated} is in the reference",
            where=reference,
            remedy="Give the references of the same faces; they are joined by the columns `image` and `box`.",
        )
    return pairs, by_file_name


def _joined(texts: Sequence[Record], references: Sequence[Record]) -> tuple[list[tuple[Record, Record]], int]:
    """Join by image and box; else by image, and else by the file's name, where these name one text on either side.

    A file's name alone joins only with a path that is no more than that, as in the released lists: ``1/0001.jpg`` and
    ``3/0001.jpg`` are two faces.
    """
    keys: tuple[Callable[[Record], str], ...] = (lambda record: record.name, lambda record: record.image)
    found: dict[str, Record] = {}
    for key in keys:
        mine, theirs = _once(texts, key), _once(references, key)
        for name in mine.keys() & theirs.keys():
            found.setdefault(mine[name].name, theirs[name])
    surely = len(found)
    mine, theirs = _once(texts, _file_name), _once(references, _file_name)
    for name in mine.keys() & theirs.keys():
        if name in (mine[name].image, theirs[name].image):
            found.setdefault(mine[name].name, theirs[name])
    return [(text, found[text.name]) for text in texts if text.name in found], len(found) - surely


def _file_name(record: Record) -> str:
    return Path(record.image).name


def _once(texts: Sequence[Record], key: Callable[[Record], str]) -> dict[str, Record]:
    counts = Counter(map(key, texts))
    return {key(text): text for text in texts if counts[key(text)] == 1}


def _recognition(table: Manifest) -> dict[str, Any]:
    """Measure labels against true ones; empty where there are none.

    Returns:
        What `recognition_metrics` gives, with ``by``: ``predicted`` or ``conclusion``; ``unlabeled``, faces whose
        true label is not known, and ``unanswered``, faces with a reason in ``unreadable``, which do not count.
    """
    frame = table.frame
    by = "predicted" if "predicted" in frame else "conclusion"
    if "expression" not in frame or (by == "conclusion" and "cot" not in frame):
        return {}
    if by == "conclusion":
        written = frame[frame["cot"].notna()]
        frame = written.assign(predicted=written["cot"].map(lambda text: ChainOfThought.parse(text).expression))
    labeled = frame[frame["expression"].notna()]
    if labeled.empty:
        return {}
    answers = Answers.from_table(labeled, _labels(labeled), unknown_labels="leave_out")
    if not answers.rows:
        return {}
    return {
        "by": by,
        **recognition_metrics(answers),
        "unlabeled": len(frame) - len(labeled),
        "unanswered": int(frame["unreadable"].notna().sum()) if "unreadable" in frame else 0,
    }


def _labels(frame: Any) -> tuple[Expression, ...] | None:
    """Return the classes: those that the table names or has probabilities of, else all that occur in it."""
    named = sorted(set(frame["label_set"].dropna())) if "label_set" in frame else []
    if len(named) == 1:
        return tuple(LabelSet.by_name(named[0]))
    if any(str(name).startswith("p_") for name in frame):
        return None
    occur = {expression_or_none(word) for name in ("expression", "predicted") for word in frame[name]}
    return tuple(label for label in Expression if label in occur)


def _write(
    out: Path, texts: Sequence[Record], counts: Sequence[TextCounts], judgments: dict[str, Judgment | str]
) -> None:
    """Write a line for each text: what was measured of it, and its scores where it was judged."""
    with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for text, count in zip(texts, counts, strict=True):
            values: dict[str, Any] = {"image": text.image}
            if text.box is not None:
                values["box"] = list(text.box)
            values |= {"expression": text.expression, "predicted": text.predicted}
            values |= {"arrives_at": ChainOfThought.parse(text.text).expression, "words": int(count.words)}
            values["complete"] = bool(count.complete)
            if count.grounded:
                values |= {name: int(getattr(count, name)) for name in _GROUNDED}
            found = judgments.get(text.name)
            if isinstance(found, str):
                values["failed"] = found
            elif found is not None:
                values |= {**asdict(found), "score": found.score}
            stream.write(json.dumps(values) + "\n")


_GROUNDED = ("claimed", "claimed_active", "active", "strong_claimed", "strong", "unsupported", "side_errors")
_NAMES = {
    "complete": "all three sections",
    "words": "words on average",
    "over_limit": f"more than {MAX_WORDS} words",
    "agreement": "conclusion agrees with the label said first",
    "undecided": "arrives at no expression",
    "grounding_precision": "action units: precision",
    "grounding_recall": "action units: recall",
    "grounding_recall_strong": f"action units: recall at intensity {STRONG} and more",
    "grounding_f1": "action units: F1",
    "unsupported": "claims of absent action units",
    "side_errors": "claims on the wrong side, each text",
    "intensity_agreement": "intensity words that fit",
}


_REASONS = 5
"""Reasons for texts that are not judged that are printed."""


def _print(figures: dict[str, Any], path: Path) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{escape(str(path))}: {figures['count']:,.0f} texts", title_justify="left")
    table.add_column("measured without a judge")
    table.add_column("", justify="right")
    for key, words in _NAMES.items():
        if figures[key] is not None:
            table.add_row(words, f"{figures[key]:.1f}" if key == "words" else f"{figures[key]:.3f}")
    if figures["count"]:
        console.print(table)
    if labels := figures.get("recognition"):
        _print_recognition(console, labels)
    if "judge" not in figures:
        return
    if found := figures.get("exp_cot_score"):
        _print_scores(console, found, figures["judge"], path)
    if figures["judge_cost"]:
        console.print(f"judging has cost {figures['judge_cost']:.2f} USD")
    for reason, count in list(figures["not_judged_because"].items())[:_REASONS]:
        console.print(f"not judged: {count:,} ({reason})", markup=False)
    if (more := len(figures["not_judged_because"]) - _REASONS) > 0:
        console.print(f"not judged for {more:,} more reasons; -o FILE names them")
    if figures["not_judged"] and figures["judge_ledger"]:
        # Whatever a judge answered was paid for, also where it cannot be read.
        console.print(
            f"answers that are there are not asked for again; they stand in {escape(figures['judge_ledger'])}"
        )
    if figures["without_reference"]:
        console.print(f"without a reference: {figures['without_reference']:,}")
    if figures["joined_by_file_name"]:
        console.print(f"joined by the file's name alone: {figures['joined_by_file_name']:,}")


def _print_scores(console: Console, found: dict[str, float], judge: str, path: Path) -> None:
    scores = Table(title=f"Exp-CoT Score; judge: {escape(judge)}", title_justify="left")
    for column in ("", "key observations", "interpretation", "conclusion", "score", "texts"):
        scores.add_column(column, justify="right" if column else "left")
    means = (found["key_observations"], found["interpretation"], found["conclusion"], found["score"])
    scores.add_row(escape(path.stem), *(f"{value:.2f}" for value in means), f"{found['count']:,}")
    scores.add_section()
    for name, values in EXP_COT_SCORES.items():
        scores.add_row(f"{name} (published)", *(f"{value:.2f}" for value in values), "100")
    console.print(scores)
    console.print("Published figures are GPT-4o's judgments (paper, Table III): no other judge's compare with them.")


def _print_recognition(console: Console, labels: dict[str, Any]) -> None:
    said = "the column predicted" if labels["by"] == "predicted" else "what the texts arrive at"
    console.print(f"\nrecognition, by {said}:")
    shown = {**labels, "unreadable": []}
    print_metrics(console, {f"{labels['by']}/{name}": value for name, value in shown.items()}, labels["by"])
    if labels["unanswered"]:
        console.print(f"{labels['unanswered']:,} faces have no answer and do not count: see the column unreadable")
    if labels["unlabeled"]:
        console.print(f"{labels['unlabeled']:,} faces without a true label do not count")
