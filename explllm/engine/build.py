"""A whole manifest: many faces at a time, resumable, within a budget."""

import time
from collections.abc import Callable, Iterator

import pandas as pd

from explllm.chat.client import ChatClient
from explllm.core.manifest import Manifest
from explllm.engine.face import EngineSettings, Outcome, Status
from explllm.engine.img2au import faces
from explllm.engine.offline import OfflineEngine
from explllm.engine.pipeline import explain_face
from explllm.engine.work import Built, Seen, work_through


def build_offline(manifest: Manifest, settings: EngineSettings, seen: Seen[Outcome]) -> Built[Outcome]:
    """Write the chains of thought of a manifest by rules.

    Args:
        manifest: The table.
        settings: Limits of the checks.
        seen: Is told of each outcome.

    Returns:
        What became of it.
    """
    start, engine, built = time.monotonic(), OfflineEngine(settings), Built[Outcome]()
    for row, face in faces(manifest):
        built.total += 1
        built.outcomes[row] = engine.explain(face)
        seen(built.outcomes[row])
    built.seconds = time.monotonic() - start
    return built


async def build_with_model(
    manifest: Manifest, client: ChatClient, settings: EngineSettings, requests: int, seen: Seen[Outcome]
) -> Built[Outcome]:
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
    return await work_through(
        faces(manifest), total, lambda face: explain_face(face, client.ask, settings), requests, seen, client.ledger
    )


_ACCEPTED = (Status.ACCEPTED, Status.LABEL_GIVEN)

_CELLS: dict[str, Callable[[Outcome, str], object]] = {
    "cot": lambda outcome, source: outcome.text,
    "cot_source": lambda outcome, source: source if outcome.text else None,
    "cot_rounds": lambda outcome, source: outcome.rounds,
    "cot_status": lambda outcome, source: str(outcome.status),
    "cot_reason": lambda outcome, source: outcome.reason or None,
    "cot_cost": lambda outcome, source: outcome.cost,
}
"""What an outcome says in each column; ``cot_source`` is the model's name."""


def with_outcomes(manifest: Manifest, built: Built[Outcome], source: str) -> Manifest:
    """Return the manifest with the chains of thought and how each came about.

    Args:
        manifest: The table.
        built: The outcomes.
        source: What stands in ``cot_source``: the model's name or ``offline``.

    Returns:
        A new manifest with the columns ``cot``, ``cot_source``, ``cot_rounds``, ``cot_status``, ``cot_reason`` and
        ``cot_cost``. Where a row was not done, they keep what they held; all are empty where that is nothing.
    """
    frame = manifest.frame.copy()
    nothing = [None] * len(frame)
    for name, cell in _CELLS.items():
        earlier = frame.get(name, nothing)
        cells = [
            cell(built.outcomes[row], source) if row in built.outcomes else None if pd.isna(old) else old
            for row, old in enumerate(earlier)
        ]
        column = pd.Series(cells, index=frame.index, dtype=object)
        if name in ("cot_rounds", "cot_cost"):
            numbers = pd.to_numeric(column, errors="coerce")
            column = numbers.astype("Int64") if name == "cot_rounds" else numbers.astype("Float64")
        frame[name] = column
    return Manifest(frame, manifest.root, manifest.path)


def released_records(manifest: Manifest) -> Iterator[dict[str, object]]:
    """Yield the accepted rows in the layout of the authors' released lists.

    Args:
        manifest: A manifest that `with_outcomes` gave.

    Yields:
        ``file_name``, ``emo``, ``au`` (24 floats), ``description``.
    """
    frame = manifest.frame
    columns = (frame[name] for name in ("image", "expression", "action_units", "cot", "cot_status"))
    for image, label, units, cot, status in zip(*columns, strict=True):
        # A text that the manifest held before may stand in a row that has neither units nor label.
        if cot is not None and units is not None and label is not None and status in _ACCEPTED:
            yield {"file_name": image, "emo": label, "au": list(units), "description": cot}
