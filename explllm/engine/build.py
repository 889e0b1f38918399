"""A whole manifest: many faces at a time, resumable, within a budget."""

import time
from collections.abc import Iterator

import pandas as pd

from explllm.core.manifest import Manifest
from explllm.core.manifest_files import is_empty
from explllm.engine.face import EngineSettings, Outcome, Status
from explllm.engine.face_queue import RunResult, Seen, run_all
from explllm.engine.img2au import faces
from explllm.engine.offline import OfflineEngine
from explllm.engine.outcomes import Outcomes
from explllm.engine.pipeline import explain_face
from explllm.llm.client import ChatClient


def build_offline(manifest: Manifest, settings: EngineSettings, seen: Seen[Outcome]) -> RunResult:
    """Write the chains of thought of a manifest by rules.

    Args:
        manifest: The table.
        settings: Limits of the checks.
        seen: Is told of each outcome.

    Returns:
        What became of it.
    """
    start, engine, built = time.monotonic(), OfflineEngine(settings), RunResult()
    for row, face in faces(manifest):
        built.total += 1
        outcome = engine.explain(face)
        built.outcomes.add(row, outcome)
        seen(outcome)
    built.seconds = time.monotonic() - start
    return built


async def build_with_model(
    manifest: Manifest, client: ChatClient, settings: EngineSettings, requests: int, seen: Seen[Outcome]
) -> RunResult:
    """Make the chains of thought of a manifest with a language model.

    Args:
        manifest: The table.
        client: Who is asked; it keeps the ledger, from which a resumed run takes all answers that were paid for.
        settings: How long to try.
        requests: Requests at a time.
        seen: Is told of each outcome.

    Returns:
        What became of it. A budget that is used up, `ChatClient.stop`, or a server that refuses key, model or credit
        ends it early; what is in flight is finished.
    """
    total = sum(1 for _ in faces(manifest))
    return await run_all(
        faces(manifest), total, lambda face: explain_face(face, client.ask, settings), requests, seen, client.ledger
    )


_ACCEPTED = (Status.ACCEPTED, Status.LABEL_GIVEN)

_COLUMNS = ("cot", "cot_source", "cot_rounds", "cot_status", "cot_reason", "cot_cost")
"""What a build adds, in this order."""
_NUMBERS = {"cot_rounds": pd.Int64Dtype(), "cot_cost": pd.Float64Dtype()}


def with_outcomes(part: pd.DataFrame, outcomes: Outcomes, source: str) -> pd.DataFrame:
    """Return a part of a manifest's table with the chains of thought and how each came about.

    Args:
        part: Consecutive rows; the index is their number, counted from 0.
        outcomes: The outcomes.
        source: What stands in ``cot_source``: the model's name or ``offline``.

    Returns:
        A new table with the columns ``cot``, ``cot_source``, ``cot_rounds``, ``cot_status``, ``cot_reason`` and
        ``cot_cost``. Where a row was not done, they keep what they held; all are empty where that is nothing.
    """
    told = outcomes.cells(int(part.index[0]), int(part.index[-1])) if len(part) else {}
    for outcome in told.values():
        outcome["cot_source"] = source if outcome["cot"] else None
    part, nothing = part.copy(), [None] * len(part)
    for name in _COLUMNS:
        earlier = zip(part.index, part.get(name, nothing), strict=True)
        # An earlier manifest may hold anything here: it checks only the columns that it knows.
        cells = [told[row][name] if row in told else None if is_empty(old) else str(old) for row, old in earlier]
        column = pd.Series(cells, index=part.index, dtype=object)
        if name in _NUMBERS:
            column = pd.to_numeric(column, errors="coerce").astype(pd.Float64Dtype())
            column = (column.where(column % 1 == 0) if name == "cot_rounds" else column).astype(_NUMBERS[name])
        part[name] = column
    return part


def released_records(part: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield the accepted rows in the layout of the authors' released lists.

    Args:
        part: What `with_outcomes` gave.

    Yields:
        ``file_name``, ``emo``, ``au`` (24 floats), ``description``; and ``box`` where a row has one, by which the faces
        of one image are told apart.
    """
    columns = part.reindex(columns=["image", "box", "expression", "action_units", "cot", "cot_status"])
    for image, box, label, units, cot, status in columns.itertuples(index=False):
        # A text that the manifest held before may stand in a row that has neither units nor label.
        if cot is not None and units is not None and label is not None and status in _ACCEPTED:
            place = {"box": list(box)} if isinstance(box, list) else {}
            yield {"file_name": image, **place, "emo": label, "au": list(units), "description": cot}
