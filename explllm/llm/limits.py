"""Limits on what is sent in a minute."""

from __future__ import annotations

import asyncio
import time


class RateLimit:
    """A token bucket that may go into debt.

    A second's worth can be taken at once. Who takes more than is there leaves a debt that the next one waits for, so
    that amounts larger than the bucket pass too, and the rate holds over a minute.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._most = max(1.0, self._rate)
        self._level = self._most
        self._time = time.monotonic()
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    async def take(self, amount: float) -> None:
        """Wait until the amount may be taken; those who wait are served in order."""
        async with self._turn:
            while True:
                self._fill()
                missing = min(amount, self._most) - self._level
                # Not 0: the sleep may end a rounding error too early.
                if missing <= 1e-9:
                    break
                self._given_back.clear()
                try:
                    async with asyncio.timeout(missing / self._rate):
                        await self._given_back.wait()
                except TimeoutError:
                    pass
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """Put back what was taken and turned out not to be needed; a negative amount takes more."""
        self._fill()
        self._level = min(self._most, self._level + amount)
        self._given_back.set()

    def _fill(self) -> None:
        now = time.monotonic()
        self._level = min(self._most, self._level + (now - self._time) * self._rate)
        self._time = now
