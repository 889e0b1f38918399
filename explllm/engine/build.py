"""Build chains of thought or other texts for the faces of a manifest, with a language model or by rules."""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from explllm.core.manifest import Manifest
from explllm.core.manifest_files import is_empty
from explllm.engine.face import Face, Outcome, Status
from explllm.engine.img2au import faces
from explllm.engine.outcomes import OutcomeStore
from explllm.engine.pipeline import explain_face
from explllm.engine.runner import OnOutcome, Redo, RunResult, run_all
from explllm.engine.settings import EngineSettings
from explllm.explanations.checks import pair_problems
from explllm.explanations.rule_writer import RuleWriter
from explllm.llm.client import ChatClient
from explllm.llm.reading import Ask
from explllm.llm.request import digest

_MAX_WORDINGS = 50


class OfflineEngine:
    """Writes chains of thought by rules from the action units and the label, at no cost. The source is ``offline``."""

    def __init__(self, settings: EngineSettings) -> None:
        """Create an engine; `settings` contains the limits for the checks."""
        self.settings = settings
        self.writer = RuleWriter()
        self._written: dict[str, str] = {}
        """Digests of all texts and their action units; keeping the texts would take too much memory."""

    def explain(self, face: Face) -> Outcome:
        """Write a chain of thought that passes all local checks; the face fails if no wording passes.

        Faces with different action units never share a text: if a text is taken, the engine chooses another wording.
        The same faces in the same order yield the same texts.
        """
        reason, units = "", digest(str(face.action_units))
        for seed in range(_MAX_WORDINGS):
            cot = self.writer.write(face.action_units, face.expression, seed=seed)
            problems = pair_problems(
                cot, face.action_units, face.expression, self.settings.max_words, self.settings.strong
            )
            if problems:
                reason = "; ".join(problems)
            elif self._written.setdefault(digest(cot.text), units) != units:
                reason = "another face has the same text"
            else:
                return Outcome(Status.ACCEPTED, cot.text, 0, "", 0.0)
        return Outcome(Status.FAILED, None, 0, f"none of {_MAX_WORDINGS} wordings passes: {reason}", 0.0)


@dataclass(frozen=True)
class TextKind:
    """A kind of text that a build writes about each face."""

    title: str
    """Name in progress displays."""
    prefix: str
    """Prefix of the column names: ``PREFIX_source``, ``PREFIX_status`` and so on."""
    columns: tuple[str, ...]
    """The columns that contain the texts."""
    offline: Callable[[EngineSettings], Callable[[Face], Any]]
    """Returns a function that writes the texts of one face by rules and returns the outcome."""
    with_model: Callable[[Face, Ask, EngineSettings], Awaitable[Any]]
    """Asks a language model for the texts of one face."""


COT = TextKind("chains of thought", "cot", ("cot",), lambda settings: OfflineEngine(settings).explain, explain_face)
"""Chains of thought."""


def build_offline(
    manifest: Manifest, settings: EngineSettings, on_outcome: OnOutcome[Any], kind: TextKind = COT
) -> RunResult:
    """Write texts for the faces of a manifest by rules.

    Args:
        manifest: The manifest.
        settings: Limits for the checks.
        on_outcome: Called with each outcome.
        kind: The kind of text.

    Returns:
        The result.
    """
    start, write, result = time.monotonic(), kind.offline(settings), RunResult()
    for row, face in faces(manifest):
        result.total += 1
        outcome = write(face)
        result.outcomes.add(row, outcome)
        on_outcome(outcome)
    result.seconds = time.monotonic() - start
    return result


async def build_with_model(
    manifest: Manifest,
    client: ChatClient,
    settings: EngineSettings,
    concurrency: int,
    on_outcome: OnOutcome[Any],
    redo: Redo | None = None,
    kind: TextKind = COT,
) -> RunResult:
    """Generate texts for the faces of a manifest with a language model.

    Args:
        manifest: The manifest.
        client: The client. Its ledger contains all answers from earlier runs.
        settings: Limits of the engine.
        concurrency: Maximum number of requests in flight.
        on_outcome: Called with each outcome.
        redo: "failed" to ask again about faces that fail with their recorded answers.
        kind: The kind of text.

    Returns:
        The result; see `explllm.engine.runner.run_all` for runs that stop early.
    """
    total = sum(1 for _ in faces(manifest))
    return await run_all(
        faces(manifest),
        total,
        lambda face: kind.with_model(face, client.ask, settings),
        concurrency,
        on_outcome,
        client.ledger,
        redo,
    )


_ACCEPTED = (Status.ACCEPTED, Status.LABEL_GIVEN)

_PROVENANCE = ("source", "rounds", "status", "reason", "cost")
_NUMBERS = {"rounds": pd.Int64Dtype(), "cost": pd.Float64Dtype()}


def with_outcomes(part: pd.DataFrame, outcomes: OutcomeStore, source: str, kind: TextKind = COT) -> pd.DataFrame:
    """Return a part of a manifest's table with the texts and their provenance.

    Args:
        part: Consecutive rows, indexed by zero-based row number.
        outcomes: The outcomes.
        source: The value of ``cot_source``: the model's name or ``offline``.
        kind: The kind of text.

    Returns:
        A new table with the text columns, then ``cot_source``, ``cot_rounds``, ``cot_status``, ``cot_reason`` and
        ``cot_cost``, or the same columns with another kind's prefix. Rows without an outcome keep their earlier values.
    """
    cells_by_row = outcomes.cells(int(part.index[0]), int(part.index[-1])) if len(part) else {}
    for cells in cells_by_row.values():
        cells[f"{kind.prefix}_source"] = source if any(cells[name] for name in kind.columns) else None
    part, nothing = part.copy(), [None] * len(part)
    for name in (*kind.columns, *(f"{kind.prefix}_{field}" for field in _PROVENANCE)):
        field = name.removeprefix(f"{kind.prefix}_")
        earlier = zip(part.index, part.get(name, nothing), strict=True)
        # The manifest does not validate these columns, so earlier values may be of any type.
        values = [
            cells_by_row[row][name] if row in cells_by_row else None if is_empty(old) else str(old)
            for row, old in earlier
        ]
        column = pd.Series(values, index=part.index, dtype=object)
        if field in _NUMBERS:
            column = pd.to_numeric(column, errors="coerce").astype(pd.Float64Dtype())
            column = (column.where(column % 1 == 0) if field == "rounds" else column).astype(_NUMBERS[field])
        part[name] = column
    return part


def released_records(part: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield the accepted rows of a table from `with_outcomes` in the format of the authors' released lists.

    The keys are ``file_name``, ``emo``, ``au`` (24 floats), ``description`` and, if the row has one, ``box``, which
    distinguishes several faces in one image.
    """
    columns = part.reindex(columns=["image", "box", "expression", "action_units", "cot", "cot_status"])
    for image, box, label, units, cot, status in columns.itertuples(index=False):
        # A row without units or label may have a text from an earlier manifest.
        if cot is not None and units is not None and label is not None and status in _ACCEPTED:
            box_cell = {"box": list(box)} if isinstance(box, list) else {}
            yield {"file_name": image, **box_cell, "emo": label, "au": list(units), "description": cot}
