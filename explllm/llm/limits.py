"""Limits on spending and on the request rate."""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from explllm.llm.request import OutOfBudget


class Budget:
    """The money that a ledger's requests have cost and may still cost, in USD; used in one event loop.

    Before a request is sent, its maximum cost is reserved. A request that ends without an answer counts at its maximum
    cost if it may have been charged.
    """

    def __init__(self, spent: float = 0.0) -> None:
        self._spent = spent
        self._reserved: dict[int, float] = {}
        self._next_id = 1
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def spent(self) -> float:
        """Upper bound on the money spent, without open reservations."""
        return self._spent

    async def reserve(self, upper_bound: float, limit: float | None) -> int:
        """Reserve the maximum cost of a request, in USD, and return a reservation number for `settle`.

        Requests in flight usually cost less than their reservations. The method therefore waits for them before it
        gives up. `limit` is the maximum cost of all requests together, in USD; None means no limit.

        Raises:
            OutOfBudget: If the request could exceed the limit even if the requests in flight cost nothing.
        """
        while limit is not None and self._spent + sum(self._reserved.values()) + upper_bound > limit:
            if self._spent + upper_bound > limit or not self._reserved:
                raise OutOfBudget(
                    f"${self._spent:.4f} of ${limit:.4f} is spent, and the next request may cost ${upper_bound:.4f}"
                )
            settled = asyncio.get_running_loop().create_future()
            self._waiting.add(settled)
            try:
                await settled
            finally:
                self._waiting.discard(settled)
        number, self._next_id = self._next_id, self._next_id + 1
        self._reserved[number] = upper_bound
        return number

    def settle(self, number: int, cost: float) -> None:
        """Replace a reservation with the cost of the request, in USD."""
        del self._reserved[number]
        self._spent += cost
        for settled in self._waiting:
            if not settled.done():
                settled.set_result(None)


class RateLimit:
    """A limit per minute, with corrections for amounts that are known only afterwards.

    A burst may use one second's worth of the limit, but at least 1. A larger amount is acquired in parts of at
    most this size, so the rate is not exceeded.
    """

    def __init__(self, per_minute: float) -> None:
        # The limiter cannot grant an amount above its capacity, and a request is an amount of 1.
        self._burst = max(1.0, per_minute / 60)
        self._limiter = AsyncLimiter(self._burst, self._burst / per_minute * 60)
        self._max_credit = per_minute / 6
        self._credit = 0.0
        self._turn = asyncio.Lock()

    async def acquire(self, amount: float) -> None:
        """Wait until the amount may be used; waiters are served in order."""
        async with self._turn:
            while True:
                # Check again after each wait: other requests may have returned what they did not use.
                from_credit = min(amount, self._credit)
                self._credit -= from_credit
                amount -= from_credit
                if amount <= 0:
                    return
                part = min(amount, self._burst)
                await self._limiter.acquire(part)
                amount -= part

    def give_back(self, amount: float) -> None:
        """Credit an unused amount to the next waiter; a negative amount is a debt."""
        # Limit the credit to 10 seconds' worth: more would allow a burst above the server's limit after a pause.
        self._credit = min(self._max_credit, self._credit + amount)
