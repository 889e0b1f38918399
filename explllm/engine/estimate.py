"""What ``explllm cot estimate`` works out: calls, tokens and cost before anything is spent."""

import argparse
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from explllm.commands.cot_build import engine_settings
from explllm.core.expressions import Expression, LabelSet
from explllm.core.manifest import Manifest
from explllm.engine.face import EngineSettings, Face
from explllm.engine.img2au import faces, in_words, left_out
from explllm.explanations.chain_of_thought import MAX_WORDS
from explllm.llm.prices import Price, picture_tokens
from explllm.llm.prompt import render
from explllm.llm.settings import ChatSettings

CHARACTERS_PER_TOKEN = 4.0
"""English prose in the tokenizers of current models: a rule of thumb."""
DESCRIPTION_TOKENS, COT_TOKENS, LABEL_TOKENS = 350, 220, 8
"""Assumed lengths of the answers. A chain of thought of 130 words has about 200 tokens."""


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens of a whole manifest."""

    calls: int
    """Requests that are answered; those that are retried after a fault come on top."""
    tokens_in: int
    """Tokens sent."""
    tokens_out: int
    """Tokens written."""

    def cost(self, price_in: float, price_out: float) -> float:
        """Return the cost in USD from prices in USD for a million tokens."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


def estimate(manifest: Manifest, settings: EngineSettings, rounds: float) -> Estimate:
    """Estimate what a manifest takes.

    Args:
        manifest: The table.
        settings: Limits of the engine.
        rounds: Rounds of reflection of each face.

    Returns:
        The estimate: each round asks for a description, its expression, a verification, and one refinement at the end.
    """
    calls = tokens_in = tokens_out = 0.0
    for _, face in faces(manifest):
        first, asking, verifying, refining = _lengths(face, settings)
        # Each reflection sends the history again: the first question and all descriptions and feedbacks so far.
        history = sum((first + number * (DESCRIPTION_TOKENS + 120)) for number in range(1, int(rounds) + 1))
        history += (rounds % 1) * (first + (int(rounds) + 1) * (DESCRIPTION_TOKENS + 120))
        calls += 3 * (1 + rounds) + 1
        tokens_in += first + history + (1 + rounds) * (asking + verifying) + refining
        tokens_out += (1 + rounds) * (DESCRIPTION_TOKENS + 2 * LABEL_TOKENS) + COT_TOKENS
    return Estimate(round(calls), round(tokens_in), round(tokens_out))


def print_estimate(options: argparse.Namespace) -> None:
    """Print the estimate for the least, a middling and the greatest number of rounds.

    Args:
        options: The command line.

    Raises:
        InputError: If the manifest lacks something.
    """
    manifest = Manifest.read(options.manifest)
    manifest.require("action_units", "expression")
    lacking, settings = left_out(manifest), engine_settings(options)
    # Without a model only what is given can be a price.
    chat = ChatSettings(
        options.model or "any", options.base_url, price_in=options.price_in, price_out=options.price_out
    )
    prices = chat.price()
    title = Text(f"{options.model or 'any model'}, {sum(1 for _ in faces(manifest)):,} faces")
    table = Table(title=title, title_justify="left")
    table.add_column("rounds of reflection")
    for column in ("calls", "tokens in", "tokens out", "USD"):
        table.add_column(column, justify="right")
    cases = (
        ("none: all accepted at once", 0.0),
        ("one for each second face", 0.5),
        ("all", float(settings.max_rounds)),
    )
    for name, rounds in cases:
        found = estimate(manifest, settings, rounds)
        cost = "unknown" if prices is None else f"{found.cost(prices.price_in, prices.price_out):,.2f}"
        table.add_row(name, f"{found.calls:,}", f"{found.tokens_in:,}", f"{found.tokens_out:,}", cost)
    console = Console(highlight=False)
    console.print(table)
    for lack, count in lacking.items():
        console.print(f"left out: {count:,} rows with {lack}")
    console.print(
        f"Assumed: {CHARACTERS_PER_TOKEN:g} characters a token, {DESCRIPTION_TOKENS} tokens a description, "
        f"{COT_TOKENS} a chain of thought."
    )
    _print_prices(console, prices)


def print_baseline_estimate(faces: int, model: str, labels: LabelSet, prices: Price | None) -> None:
    """Print what `explllm.engine.baseline` takes: two requests a face, both with its picture.

    Args:
        faces: How many.
        model: The model's name.
        labels: The classes to answer among.
        prices: What the model costs; None if that is unknown.
    """
    names, picture = ", ".join(labels), picture_tokens(model).usual
    texts = (
        render("explllm.engine", "baseline_label", labels=names),
        render("explllm.engine", "baseline_cot", labels=names, words=MAX_WORDS, margin=MAX_WORDS),
    )
    first, second = (len(text) / CHARACTERS_PER_TOKEN for text in texts)
    tokens_in = 2 * (picture + first) + LABEL_TOKENS + second
    found = Estimate(2 * faces, round(faces * tokens_in), faces * (LABEL_TOKENS + COT_TOKENS))
    cost = "unknown" if prices is None else f"{found.cost(prices.price_in, prices.price_out):,.2f} USD"
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{model}, {faces:,} faces: {found.calls:,} calls, {found.tokens_in:,} tokens in, {found.tokens_out:,} out, "
        f"cost {cost}"
    )
    console.print(
        f"Assumed: {CHARACTERS_PER_TOKEN:g} characters a token, {picture:,} tokens a picture, {COT_TOKENS} tokens a "
        "chain of thought; nothing was sent."
    )
    _print_prices(console, prices)


def _print_prices(console: Console, prices: Price | None) -> None:
    if prices is None:
        console.print(
            "The price of this model is not known here: give --price-in and --price-out (USD a million tokens)."
        )
    else:
        console.print(
            f"Prices: {prices.price_in:g} in, {prices.price_out:g} out, USD a million tokens ({prices.source})."
        )


def _lengths(face: Face, settings: EngineSettings) -> tuple[float, float, float, float]:
    units = in_words(face.action_units)
    texts = (
        render("explllm.engine", "au2des", units=units, absent="x" * 300, unmeasured=""),
        render("explllm.engine", "des2exp", labels=", ".join(Expression), description=""),
        render("explllm.engine", "verification", units=units, unmeasured="", description=""),
        render(
            "explllm.engine",
            "refinement",
            expression=str(face.expression),
            words=settings.max_words,
            margin=settings.max_words,
            units=units,
            problems=[],
            previous="",
            description="",
        ),
    )
    first, asking, verifying, refining = (len(text) / CHARACTERS_PER_TOKEN for text in texts)
    return first, asking + DESCRIPTION_TOKENS, verifying + DESCRIPTION_TOKENS, refining + DESCRIPTION_TOKENS
