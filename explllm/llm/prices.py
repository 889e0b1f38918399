"""Published list prices of OpenAI's chat models.

They are OpenAI's standard rates as listed in March 2026, without the discounts for cached prompts and batches, so that
a cost counted with them is no lower than the bill was then. Prices change: `ChatSettings.price_in` and `price_out` go
before them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATE = "2026-03"
"""The month in which the prices were listed."""


@dataclass(frozen=True)
class Price:
    """What a model costs."""

    price_in: float
    """USD for a million tokens of prompt."""
    price_out: float
    """USD for a million tokens of answer."""
    source: str = f"list price of {DATE}"
    """Where the price is from."""

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost in USD of so many tokens."""
        return (self.price_in * prompt_tokens + self.price_out * completion_tokens) / 1e6


@dataclass(frozen=True)
class PictureTokens:
    """What a picture counts as, in tokens of prompt."""

    usual: int
    """Of one of at most 512 pixels, for estimates."""
    most: int
    """Of any: what is set aside of a budget before it is sent."""


def picture_tokens(model: str) -> PictureTokens:
    """Say what a picture costs.

    OpenAI's guide "Images and vision" counts 85 tokens and 170 for each tile of 512 pixels (gpt-4o, gpt-4.1), of which
    there are at most 8 after its scaling; for gpt-4o-mini it is 2,833 and 5,667; models that count patches stay below
    4,000. Open models that are known to us take at most 3,328.

    Args:
        model: The model's name.

    Returns:
        The numbers; those of gpt-4o-mini for its versions, for every other model the same.
    """
    return PictureTokens(8_500, 48_169) if model.startswith("gpt-4o-mini") else PictureTokens(255, 4_000)


_LISTED = {
    "gpt-4o": Price(2.50, 10.00),
    "gpt-4o-2024-05-13": Price(5.00, 15.00),
    "gpt-4o-mini": Price(0.15, 0.60),
    "gpt-4.1": Price(2.00, 8.00),
    "gpt-4.1-mini": Price(0.40, 1.60),
    "gpt-4.1-nano": Price(0.10, 0.40),
    "gpt-5": Price(1.25, 10.00),
    "gpt-5-mini": Price(0.25, 2.00),
    "gpt-5-nano": Price(0.05, 0.40),
    "gpt-5.1": Price(1.25, 10.00),
    "gpt-5.4": Price(2.50, 15.00),
    "o3": Price(2.00, 8.00),
    "o4-mini": Price(1.10, 4.40),
}


def price_of(model: str, price_in: float | None = None, price_out: float | None = None) -> Price | None:
    """Say what a model costs.

    Args:
        model: OpenAI's name of the model; a date at its end names a version, at the model's price unless listed itself.
        price_in: USD for a million tokens of prompt, if that is known better.
        price_out: USD for a million tokens of answer; both are given or neither.

    Returns:
        The price given, else the list price; None if the table does not have the model.
    """
    if price_in is not None and price_out is not None:
        return Price(price_in, price_out, "given")
    return _LISTED.get(model) or _LISTED.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", model))
