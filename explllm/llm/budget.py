"""The budget: what a request may cost at most is set aside before it is sent."""

from __future__ import annotations

import asyncio

from explllm.llm.request import OutOfBudget


class Budget:
    """What a ledger's requests have cost and may still cost, in USD; used in one event loop.

    What was sent and never answered may have been charged for. It counts with its upper bound.
    """

    def __init__(self, spent: float = 0.0) -> None:
        self._spent = spent
        self._reserved: dict[int, float] = {}
        self._number = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def spent(self) -> float:
        """What was spent, at most."""
        return self._spent

    async def reserve(self, at_most: float, limit: float | None) -> int:
        """Set money aside for a request.

        Others in flight mostly cost less than was set aside for them: if only that stands in the way, it waits.

        Args:
            at_most: What the request may cost, in USD.
            limit: What all requests together may cost, in USD; None for no limit.

        Returns:
            A number to give to `settle`.

        Raises:
            OutOfBudget: Not enough is left, whatever those in flight will cost.
        """
        while limit is not None and self._spent + sum(self._reserved.values()) + at_most > limit:
            if self._spent + at_most > limit or not self._reserved:
                raise OutOfBudget(
                    f"${self._spent:.4f} of ${limit:.4f} are spent, and the next request may cost ${at_most:.4f}"
                )
            settled = asyncio.get_running_loop().create_future()
            self._waiting.add(settled)
            try:
                await settled
            finally:
                self._waiting.discard(settled)
        self._number += 1
        self._reserved[self._number] = at_most
        return self._number

    def settle(self, number: int, cost: float) -> None:
        """Replace what was set aside by what the request cost, in USD."""
        del self._reserved[number]
        self._spent += cost
        for settled in self._waiting:
            if not settled.done():
                settled.set_result(None)
