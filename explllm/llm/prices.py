"""List prices of OpenAI's chat models.

The prices are OpenAI's standard rates of March 2026 without discounts for cached prompts or batches. They are therefore
an upper bound on the bill at that time. `ChatSettings.price_in` and `price_out` override them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DATE = "2026-03"
"""Month of the price list."""


@dataclass(frozen=True)
class Price:
    """The price of a model."""

    price_in: float
    """USD per million prompt tokens."""
    price_out: float
    """USD per million answer tokens."""
    source: str = f"list price of {DATE}"
    """Where the price comes from: the price list and its month, or ``given``."""

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost in USD of the given token counts."""
        return (self.price_in * prompt_tokens + self.price_out * completion_tokens) / 1e6


@dataclass(frozen=True)
class ImageTokens:
    """The number of prompt tokens of an image."""

    typical: int
    """Tokens of an image of at most 512 x 512 pixels, for estimates."""
    maximum: int
    """Tokens of an image of any size, for budget reservations."""


MAX_IMAGE_TOKENS = 48_169
"""Tokens of an image of any size in the model that counts the most, gpt-4o-mini."""


def image_tokens(model: str) -> ImageTokens:
    """Return the typical and maximum number of prompt tokens of an image; only gpt-4o-mini has its own numbers.

    OpenAI's guide "Images and vision" counts 85 tokens plus 170 per tile of 512 x 512 pixels (gpt-4o, gpt-4.1), with
    at most 8 tiles after scaling; for gpt-4o-mini the counts are 2,833 and 5,667. Models that count patches use fewer
    than 4,000 tokens, and the open models known to the authors use fewer than 3,328.
    """
    # Routers such as OpenRouter put the provider before the model's name: openai/gpt-4o-mini.
    is_mini = model.rpartition("/")[2].startswith("gpt-4o-mini")
    return ImageTokens(8_500, MAX_IMAGE_TOKENS) if is_mini else ImageTokens(255, 4_000)


_LIST_PRICES = {
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


def lookup_price(model: str, price_in: float | None = None, price_out: float | None = None) -> Price | None:
    """Return the price of a model.

    Args:
        model: OpenAI's name for the model. A dated version has the price of its model unless the list contains it.
        price_in: USD per million prompt tokens, to override the list; requires `price_out`.
        price_out: USD per million answer tokens, to override the list; requires `price_in`.

    Returns:
        The given price, else the list price; None if the list does not contain the model.
    """
    if price_in is not None and price_out is not None:
        return Price(price_in, price_out, "given")
    return _LIST_PRICES.get(model) or _LIST_PRICES.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", model))
