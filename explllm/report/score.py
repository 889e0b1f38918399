"""What ``explllm score`` does: measure generated chains of thought, and have a judge hold them against references."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from explllm.chat.client import ChatClient
from explllm.chat.ledger import Ledger
from explllm.chat.request import ChatFailure, ChatSettings
from explllm.core.errors import ManifestError
from explllm.core.files import written_whole
from explllm.core.manifest import Manifest
from explllm.engine.quality import Record, read_records
from explllm.metrics.chain_of_thought import chain_of_thought_figures
from explllm.metrics.exp_cot_score import Judgement, exp_cot_score
from explllm.metrics.judges import ChatJudge, Judge, OfflineJudge

PUBLISHED = {"GPT-4o": (2.93, 3.22, 3.25, 0.63), "ExpLLM": (3.53, 3.72, 4.15, 0.76)}
"""Table III of the paper, judged by GPT-4o on 100 faces of RAF-DB's and AffectNet's test sets."""


def score(
    generated: Path,
    reference: Path | None,
    judge: ChatSettings | None,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Measure texts, judge them, and print the figures.

    Args:
        generated: A table with the texts to be judged, such as ``predictions.parquet`` of `explllm predict` with
            explanations, a manifest, or a list in the authors' released layout.
        reference: A table with reference texts, joined by image; None leaves the judge out.
        judge: The language model that judges; None for the offline judge.
        out: Where the scores of each face go, as JSON Lines; None for nowhere. A language model's answers stand in
            a ledger beside it (``OUT.run/ledger.sqlite``), and none is paid for twice.
        as_json: Print one JSON object.

    Returns:
        1 if some text could not be judged, else 0.

    Raises:
        InputError: If a table lacks something, or no image stands in both.
    """
    texts = list(read_records(generated))
    said, units = _said_first(generated), {}
    pairs: list[tuple[Record, Record]] = []
    if reference is not None:
        references = list(read_records(reference))
        pairs = _joined(texts, references, generated, reference)
        units = {record.name: other.action_units for record, other in pairs}
    figures: dict[str, Any] = chain_of_thought_figures(
        [record.text for record in texts],
        [said.get(record.name) for record in texts],
        [record.action_units if record.action_units is not None else units.get(record.name) for record in texts],
    )
    judgements: list[Judgement | str] = []
    if pairs:
        judgements, name = asyncio.run(_judge(pairs, judge, out))
        figures["judge"] = name
        figures["exp_cot_score"] = exp_cot_score(one for one in judgements if isinstance(one, Judgement))
        figures["not_judged"] = sum(isinstance(one, str) for one in judgements)
        figures["without_reference"] = len(texts) - len(pairs)
    if out is not None:
        _write(out, pairs, judgements)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        _print(figures, generated)
    return 1 if figures.get("not_judged") else 0


async def _judge(
    pairs: Sequence[tuple[Record, Record]], settings: ChatSettings | None, out: Path | None
) -> tuple[list[Judgement | str], str]:
    if settings is None:
        offline = OfflineJudge()
        return [offline.compare(one.text, other.text) for one, other in pairs], offline.name
    path = (out or Path("score")).with_suffix(".run") / "ledger.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(path) as ledger:
        async with ChatClient(settings, ledger) as client:
            await client.check()
            judge = ChatJudge(client, settings.model)
            work = (_one(judge, one, other) for one, other in pairs)
            return list(await asyncio.gather(*work)), judge.name


async def _one(judge: Judge, one: Record, other: Record) -> Judgement | str:
    try:
        return await judge.judge(one.text, other.text, one.name)
    except ChatFailure as failure:
        return failure.reason


def _joined(
    texts: Sequence[Record], references: Sequence[Record], generated: Path, reference: Path
) -> list[tuple[Record, Record]]:
    """Join by path, or by file name where that names one reference only."""
    by_path = {record.name: record for record in references}
    by_name: dict[str, list[Record]] = {}
    for record in references:
        by_name.setdefault(Path(record.name).name, []).append(record)
    pairs = []
    for text in texts:
        found = by_path.get(text.name)
        named = by_name.get(Path(text.name).name, [])
        if found is None and len(named) == 1:
            found = named[0]
        if found is not None:
            pairs.append((text, found))
    if not pairs:
        raise ManifestError(
            f"no image of {generated} is in the reference",
            where=reference,
            remedy="Give the references of the same faces; they are joined by the column `image`.",
        )
    return pairs


def _said_first(path: Path) -> dict[str, Any]:
    """Return the label that was recognised before each text was written, where the table has it."""
    if path.suffix == ".json":
        return {}
    frame = Manifest.read(path).frame
    if "predicted" not in frame:
        return {}
    pairs = zip(frame["image"], frame["predicted"], strict=True)
    return {str(image): label for image, label in pairs if isinstance(label, str)}


def _write(out: Path, pairs: Sequence[tuple[Record, Record]], judgements: Sequence[Judgement | str]) -> None:
    with written_whole(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for (text, _), found in zip(pairs, judgements, strict=True):
            values = {"failed": found} if isinstance(found, str) else {**asdict(found), "score": found.score}
            stream.write(json.dumps({"image": text.name, **values}) + "\n")


_NAMES = {
    "complete": "all three sections",
    "words": "words on average",
    "over_limit": "more than 130 words",
    "agreement": "conclusion agrees with the label said first",
    "undecided": "arrives at no expression",
    "grounding_precision": "action units: precision",
    "grounding_recall": "action units: recall",
    "grounding_f1": "action units: F1",
    "unsupported": "claims without evidence",
    "side_errors": "claims on the wrong side, each text",
    "intensity_agreement": "intensity words that fit",
}


def _print(figures: dict[str, Any], path: Path) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{path}: {figures['count']:,.0f} texts", title_justify="left")
    table.add_column("measured without a judge")
    table.add_column("", justify="right")
    for key, words in _NAMES.items():
        if figures[key] is not None:
            table.add_row(words, f"{figures[key]:.1f}" if key == "words" else f"{figures[key]:.3f}")
    console.print(table)
    if "judge" not in figures:
        return
    found = figures["exp_cot_score"]
    scores = Table(title=f"Exp-CoT Score; judge: {figures['judge']}", title_justify="left")
    for column in ("", "key observations", "interpretation", "conclusion", "score", "texts"):
        scores.add_column(column, justify="right" if column else "left")
    means = (found["key_observations"], found["interpretation"], found["conclusion"], found["score"])
    scores.add_row(path.stem, *(f"{value:.2f}" for value in means), f"{found['count']:,}")
    scores.add_section()
    for name, values in PUBLISHED.items():
        scores.add_row(f"{name} (published)", *(f"{value:.2f}" for value in values), "100")
    console.print(scores)
    console.print("Published figures are GPT-4o's judgements (paper, Table III): no other judge's compare with them.")
    if figures["not_judged"]:
        console.print(f"not judged: {figures['not_judged']}")
    if figures["without_reference"]:
        console.print(f"without a reference: {figures['without_reference']}")
