"""A whole manifest: many faces at a time, resumable, within a budget."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pandas as pd

from explllm.chat.client import ChatClient
from explllm.chat.request import OutOfBudget, Stopped
from explllm.core.manifest import Manifest
from explllm.engine.face import EngineSettings, Outcome, Status
from explllm.engine.img2au import faces
from explllm.engine.offline import OfflineEngine
from explllm.engine.pipeline import explain_face

Seen = Callable[[Outcome], None]
"""Is told of each outcome as it comes."""


@dataclass
class Built:
    """What became of a manifest."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """By row, counted from 0; a row that is missing was not finished or cannot be worked on."""
    total: int = 0
    """Rows that can be worked on."""
    stopped: str = ""
    """Why the run ended before all rows were done; empty if it did not."""
    seconds: float = 0.0
    """How long it took."""

    def count(self, status: Status) -> int:
        """Return the number of rows that ended in a status."""
        return sum(outcome.status == status for outcome in self.outcomes.values())

    @property
    def pending(self) -> int:
        """Rows that are still to be done."""
        return self.total - len(self.outcomes)

    @property
    def cost(self) -> float:
        """What the outcomes cost, in USD."""
        return sum(outcome.cost for outcome in self.outcomes.values())


def build_offline(manifest: Manifest, settings: EngineSettings, seen: Seen) -> Built:
    """Write the chains of thought of a manifest by rules.

    Args:
        manifest: The table.
        settings: Limits of the checks.
        seen: Is told of each outcome.

    Returns:
        What became of it.
    """
    start, engine, built = time.monotonic(), OfflineEngine(settings), Built()
    for row, face in faces(manifest):
        built.total += 1
        built.outcomes[row] = engine.explain(face)
        seen(built.outcomes[row])
    built.seconds = time.monotonic() - start
    return built


async def build_with_model(
    manifest: Manifest, client: ChatClient, settings: EngineSettings, workers: int, seen: Seen
) -> Built:
    """Make the chains of thought of a manifest with a language model.

    Args:
        manifest: The table.
        client: Who is asked; it keeps the ledger, from which a resumed run takes all answers that were paid for.
        settings: How long to try.
        workers: Faces at a time.
        seen: Is told of each outcome.

    Returns:
        What became of it. A budget that is used up, or `ChatClient.stop`, ends it early; what is in flight is finished.

    Raises:
        InputError: If the server refuses the key or the model.
    """
    built, start = Built(total=sum(1 for _ in faces(manifest))), time.monotonic()
    work = faces(manifest)

    async def worker() -> None:
        # The iterator is shared: each worker takes the next face when it has finished one, so few are ever in memory.
        for row, face in work:
            if built.stopped:
                return
            try:
                outcome = await explain_face(face, client.ask, settings)
            except (OutOfBudget, Stopped) as stop:
                built.stopped = built.stopped or str(stop) or type(stop).__name__
                return
            built.outcomes[row] = outcome
            seen(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    built.seconds = time.monotonic() - start
    return built


def with_outcomes(manifest: Manifest, built: Built, source: str) -> Manifest:
    """Return the manifest with the chains of thought and how each came about.

    Args:
        manifest: The table.
        built: The outcomes.
        source: What stands in ``cot_source``: the model's name or ``offline``.

    Returns:
        A new manifest with the columns ``cot``, ``cot_source``, ``cot_rounds``, ``cot_status``, ``cot_reason`` and
        ``cot_cost``; all are empty where a row was not done.
    """
    frame = manifest.frame.copy()
    rows = [built.outcomes.get(row) for row in range(len(frame))]
    columns = {
        "cot": [outcome.cot.text if outcome and outcome.cot else None for outcome in rows],
        "cot_source": [source if outcome and outcome.cot else None for outcome in rows],
        "cot_rounds": [outcome.rounds if outcome else None for outcome in rows],
        "cot_status": [str(outcome.status) if outcome else None for outcome in rows],
        "cot_reason": [(outcome.reason or None) if outcome else None for outcome in rows],
        "cot_cost": [outcome.cost if outcome else None for outcome in rows],
    }
    for name, cells in columns.items():
        kind = {"cot_rounds": "Int64", "cot_cost": "Float64"}.get(name, object)
        frame[name] = pd.Series(cells, index=frame.index, dtype=kind)
    return Manifest(frame, manifest.root, manifest.path)


def released_records(manifest: Manifest) -> Iterator[dict[str, object]]:
    """Yield the accepted rows in the layout of the authors' released lists.

    Args:
        manifest: A manifest that `with_outcomes` gave.

    Yields:
        ``file_name``, ``emo``, ``au`` (24 floats), ``description``.
    """
    frame = manifest.frame
    for image, label, units, cot in zip(
        frame["image"], frame["expression"], frame["action_units"], frame["cot"], strict=True
    ):
        if cot is not None:
            yield {"file_name": image, "emo": label, "au": list(units), "description": cot}
