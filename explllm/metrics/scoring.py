"""Evaluation of existing texts and labels: form, grounding, recognition, and the Exp-CoT Score by a judge."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from explllm.core.errors import ConfigError, InputError, ManifestError
from explllm.core.expressions import Expression, LabelSet
from explllm.core.files import atomic_write
from explllm.core.manifest import Manifest
from explllm.core.progress import ProgressBar, track
from explllm.core.reliability import UnitReliability
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.records import Record, read_table, records
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatFailure, OutOfBudget, Stopped
from explllm.llm.settings import ChatSettings
from explllm.metrics.answers import Answers
from explllm.metrics.chain_of_thought import TextCounts, sum_counts, summarize_counts, text_counts
from explllm.metrics.evaluation import recognition_metrics
from explllm.metrics.exp_cot_score import Judgment, exp_cot_score
from explllm.metrics.grounding_gain import grounding_gain
from explllm.metrics.judges import Judge
from explllm.metrics.judges.chat import ChatJudge


def score_table(
    generated: Path,
    reference: Path | None,
    judge: Judge | ChatSettings,
    out: Path | None = None,
    ledger: Path | None = None,
    redo: Literal["failed"] | None = None,
    reliability: UnitReliability | None = None,
) -> dict[str, Any]:
    """Evaluate texts and labels, and let a judge compare the texts with references.

    Each text is evaluated for form, for agreement with the predicted label and, if the table or the reference contains
    action units, for grounding. If the true labels are known, the recognition metrics are computed too, from the column
    ``predicted`` if it exists, otherwise from the expressions named in the conclusions. An answer that is not a label
    counts as wrong.

    Args:
        generated: A manifest with texts, a run folder (its ``predictions.parquet`` is read), or an annotation list or
            result file of the authors' released code; see `explllm.explanations.records.read_table`.
        reference: A file in one of these formats with reference texts, measured action units, or both, joined by face.
            Without reference texts nothing is judged, unless the table itself contains them, as the authors' results
            do.
        judge: A judge that needs no server, or the settings of the language model that judges.
        out: JSON Lines file for the metrics of each text; if None, no file is written.
        ledger: SQLite file that records the judge's answers, so that no answer is paid for twice; required if the
            judge is a language model.
        redo: "failed" to discard the recorded answers for texts that could not be judged, and ask again.
        reliability: Weights and thresholds that the grounding metrics apply to the measured units.

    Returns:
        The values of `explllm.metrics.chain_of_thought.summarize_counts` and
        `explllm.metrics.grounding_gain.grounding_gain`. If there are labels, also ``recognition``. With reference
        texts, also ``judge``, ``judge_cost`` (USD), ``judge_ledger``, ``not_judged``, ``not_judged_because``, and the
        numbers of texts ``without_reference`` and ``joined_by_file_name``. If any text was judged, also
        ``exp_cot_score``. Answers received before the budget ran out or the server refused further requests are kept.

    Raises:
        InputError: If a table lacks a column, no face is in both tables, the judge is a language model and there are
            no reference texts, or its server fails `ChatClient.check`.
    """
    table = read_table(generated)
    texts = list(records(table))
    joined, by_file_name = _pairs(texts, generated, reference)
    pairs = [(text, other) for text, other in joined if other.text]
    known = {text.name: other.action_units for text, other in joined}
    units = [text.action_units or known.get(text.name) for text in texts]
    if reliability is not None:
        units = [None if measured is None else reliability.calibrate(measured) for measured in units]
    weights = None if reliability is None else reliability.weights
    counts = [
        text_counts(text.text, text.predicted, measured, weights)
        for text, measured in track(zip(texts, units, strict=True), "reading texts", len(texts))
    ]
    metrics: dict[str, Any] = {
        **summarize_counts(sum_counts(counts)),
        **grounding_gain([text.text for text in texts], [text.predicted for text in texts], units, weights=weights),
    }
    if recognition := _recognition(table):
        metrics["recognition"] = recognition
    elif not texts:
        raise ManifestError(
            "the table has neither texts nor labels",
            where=generated,
            remedy="Pass a column `cot`, or `predicted` and `expression`.",
        )
    judgments: dict[str, Judgment | str] = {}
    if isinstance(judge, ChatSettings) and not pairs:
        raise ConfigError("--judge needs texts to compare with", remedy="Pass them with --reference, or omit --judge.")
    if pairs:
        results, metrics["judge"], metrics["judge_cost"] = asyncio.run(_judge(pairs, judge, ledger, redo))
        judgments = {text.name: result for (text, _), result in zip(pairs, results, strict=True)}
        # Without judgments the mean is NaN, which JSON cannot express.
        if judged := [result for result in results if isinstance(result, Judgment)]:
            metrics["exp_cot_score"] = exp_cot_score(judged)
        reasons = Counter(result for result in results if isinstance(result, str))
        metrics["not_judged"], metrics["not_judged_because"] = reasons.total(), dict(reasons.most_common())
        metrics["judge_ledger"] = str(ledger) if isinstance(judge, ChatSettings) else None
        metrics["without_reference"] = len(texts) - len(pairs)
        metrics["joined_by_file_name"] = by_file_name
    if out is not None:
        _write(out, texts, counts, judgments)
    return metrics


async def _judge(
    pairs: Sequence[tuple[Record, Record]],
    judge: Judge | ChatSettings,
    ledger_file: Path | None,
    redo: Literal["failed"] | None,
) -> tuple[list[Judgment | str], str, float]:
    """Return the judgments (or why they are missing), the judge's name, and the cost of the whole ledger in USD."""
    bar = ProgressBar("judging", len(pairs))
    if isinstance(judge, Judge):
        with bar:
            judgments = list(await asyncio.gather(*(_one(judge, one, other, bar) for one, other in pairs)))
        return judgments, judge.name, 0.0
    if ledger_file is None:
        raise ValueError("a language model as judge needs a ledger")
    ledger_file.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(ledger_file) as ledger:
        async with ChatClient(judge, ledger) as client:
            await client.check()
            chat_judge = ChatJudge(client, judge.model)
            work = (_one(chat_judge, one, other, bar, ledger if redo else None) for one, other in pairs)
            with bar:
                judgments = list(await asyncio.gather(*work))
        return judgments, chat_judge.name, ledger.totals().cost


async def _one(
    judge: Judge, one: Record, other: Record, bar: ProgressBar, redo_in: Ledger | None = None
) -> Judgment | str:
    """Return a judgment, or the reason why there is none; an exception would lose answers already paid for.

    If all answers of a failed judgment are in the ledger ``redo_in``, they are discarded and requested again.
    """
    try:
        sent = 0 if redo_in is None else redo_in.sent(one.name)
        try:
            return await judge.judge(one.text, other.text, one.name)
        except ChatFailure:
            if redo_in is None or not sent == redo_in.sent(one.name) > 0:
                raise
            await redo_in.discard(one.name)
            return await judge.judge(one.text, other.text, one.name)
    except ChatFailure as failure:
        return failure.reason
    except OutOfBudget:
        return "the budget of --max_cost is used up"
    except (Stopped, InputError) as stop:
        return str(stop)
    finally:
        bar.advance()


def _pairs(texts: Sequence[Record], generated: Path, reference: Path | None) -> tuple[list[tuple[Record, Record]], int]:
    """Join texts with the reference or their own references, and return how many were joined only by file name."""
    if reference is None:
        own = ((text, text.reference) for text in texts)
        return [(text, Record(text.image, text.box, other)) for text, other in own if other is not None], 0
    others = list(records(read_table(reference), texts_only=False))
    if not texts:
        raise ManifestError(
            "the table has no chains of thought to compare with --reference",
            where=generated,
            remedy="Pass a table with a column `cot`, or omit --reference.",
        )
    pairs, by_file_name = _joined(texts, others)
    if not pairs:
        raise ManifestError(
            f"no image of {generated} is in the reference",
            where=reference,
            remedy="Pass a reference with the same faces; they are joined by the columns `image` and `box`.",
        )
    return pairs, by_file_name


def _joined(texts: Sequence[Record], references: Sequence[Record]) -> tuple[list[tuple[Record, Record]], int]:
    """Join by image and box, else by image, else by file name, if these identify a single row on both sides.

    A file name joins only if one of the two paths is a bare file name, as in the released lists.
    Otherwise, ``1/0001.jpg`` would match ``3/0001.jpg``, a different face.
    """
    keys: tuple[Callable[[Record], str], ...] = (lambda record: record.name, lambda record: record.image)
    matches: dict[str, Record] = {}
    for key in keys:
        mine, theirs = _once(texts, key), _once(references, key)
        for name in mine.keys() & theirs.keys():
            matches.setdefault(mine[name].name, theirs[name])
    by_path = len(matches)
    mine, theirs = _once(texts, _file_name), _once(references, _file_name)
    for name in mine.keys() & theirs.keys():
        if name in (mine[name].image, theirs[name].image):
            matches.setdefault(mine[name].name, theirs[name])
    return [(text, matches[text.name]) for text in texts if text.name in matches], len(matches) - by_path


def _file_name(record: Record) -> str:
    return Path(record.image).name


def _once(texts: Sequence[Record], key: Callable[[Record], str]) -> dict[str, Record]:
    counts = Counter(map(key, texts))
    return {key(text): text for text in texts if counts[key(text)] == 1}


def _recognition(table: Manifest) -> dict[str, Any]:
    """Compute the recognition metrics; empty if the table has no true labels or no answers.

    Returns:
        The values of `recognition_metrics`; ``by``, the source of the answers: ``predicted`` or ``conclusion``;
        ``unlabeled``, the number of faces without a true label; ``unanswered``, the number of faces with a reason in
        ``unreadable``. Faces of both kinds are excluded from the metrics.
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
    """Return the classes of the table.

    If the table has exactly one label set, these are its classes. Otherwise, they are all classes that occur, or None
    if the table has probability columns, which then determine the classes.
    """
    named = sorted(set(frame["label_set"].dropna())) if "label_set" in frame else []
    if len(named) == 1:
        return tuple(LabelSet.by_name(named[0]))
    if any(str(name).startswith("p_") for name in frame):
        return None
    occur = {Expression.parse_or_none(word) for name in ("expression", "predicted") for word in frame[name]}
    return tuple(label for label in Expression if label in occur)


def _write(
    out: Path, texts: Sequence[Record], counts: Sequence[TextCounts], judgments: dict[str, Judgment | str]
) -> None:
    """Write one JSON line per text: its metrics, and its scores or the reason why it could not be judged."""
    with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for text, count in zip(texts, counts, strict=True):
            values: dict[str, Any] = {"image": text.image}
            if text.box is not None:
                values["box"] = list(text.box)
            values |= {"expression": text.expression, "predicted": text.predicted}
            values |= {"arrives_at": ChainOfThought.parse(text.text).expression, "words": int(count.words)}
            values["complete"] = bool(count.complete)
            if count.grounded:
                # Sums of weights may be fractional.
                sums = {name: float(getattr(count, name)) for name in _GROUNDED}
                values |= {name: int(value) if value.is_integer() else value for name, value in sums.items()}
            judgment = judgments.get(text.name)
            if isinstance(judgment, str):
                values["failed"] = judgment
            elif judgment is not None:
                values |= {**asdict(judgment), "score": judgment.score}
            stream.write(json.dumps(values) + "\n")


_GROUNDED = (
    *("claimed", "claimed_active", "recalled", "active"),
    *("strong_claimed", "strong", "unsupported", "side_errors"),
)
