"""Estimates of calls, tokens and cost before any money is spent."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from explllm.core.console import print_table
from explllm.core.expressions import Expression, LabelSet
from explllm.core.manifest import Manifest
from explllm.engine.face import Face
from explllm.engine.img2au import faces, format_units, skipped_rows
from explllm.engine.settings import EngineSettings
from explllm.explanations.chain_of_thought import MAX_WORDS
from explllm.llm.prices import Price, image_tokens
from explllm.llm.prompt import render
from explllm.llm.settings import ChatSettings

CHARACTERS_PER_TOKEN = 4.0
"""Rule of thumb for English prose and the tokenizers of current models."""
DESCRIPTION_TOKENS, COT_TOKENS, LABEL_TOKENS = 350, 220, 8
"""Assumed lengths of the answers. A chain of thought of 130 words has about 200 tokens."""


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens for a whole manifest."""

    calls: int
    """Requests with an answer, without retries."""
    tokens_in: int
    """Prompt tokens."""
    tokens_out: int
    """Answer tokens."""

    def cost(self, price: Price) -> float:
        """Return the cost in USD."""
        return price.cost(self.tokens_in, self.tokens_out)


def estimate(manifest: Manifest, settings: EngineSettings, rounds: float) -> Estimate:
    """Estimate the requests of the engine for a manifest, given the average number of reflection rounds per face.

    Each round has a description, its expression and a verification. One refinement follows at the end.
    """
    calls = tokens_in = tokens_out = 0.0
    for _, face in faces(manifest):
        first, inferring, verifying, refining = _prompt_tokens(face, settings)
        # Each reflection sends the history again: the first question, and all descriptions and feedback so far.
        history = sum((first + number * (DESCRIPTION_TOKENS + 120)) for number in range(1, int(rounds) + 1))
        history += (rounds % 1) * (first + (int(rounds) + 1) * (DESCRIPTION_TOKENS + 120))
        calls += 3 * (1 + rounds) + 1
        tokens_in += first + history + (1 + rounds) * (inferring + verifying) + refining
        tokens_out += (1 + rounds) * (DESCRIPTION_TOKENS + 2 * LABEL_TOKENS) + COT_TOKENS
    return Estimate(round(calls), round(tokens_in), round(tokens_out))


def print_estimate(manifest: Manifest, settings: EngineSettings, chat: ChatSettings) -> None:
    """Print the estimate for the minimum, a medium and the maximum number of rounds.

    Raises:
        InputError: If the manifest lacks a column.
    """
    manifest.require("action_units", "expression")
    skipped = skipped_rows(manifest)
    price = chat.price()
    title = Text(f"{chat.model or 'any model'}, {sum(1 for _ in faces(manifest)):,} faces")
    table = Table(title=title, title_justify="left")
    table.add_column("rounds of reflection")
    for column in ("calls", "tokens in", "tokens out", "USD"):
        table.add_column(column, justify="right")
    cases = {"none: all accepted at once": 0.0, "one for every second face": 0.5, "all": float(settings.max_rounds)}
    for name, rounds in cases.items():
        result = estimate(manifest, settings, rounds)
        cost = "unknown" if price is None else f"{result.cost(price):,.2f}"
        table.add_row(name, f"{result.calls:,}", f"{result.tokens_in:,}", f"{result.tokens_out:,}", cost)
    console = Console(highlight=False, soft_wrap=True)
    print_table(console, table)
    for reason, count in skipped.items():
        console.print(f"skipped: {count:,} rows with {reason}")
    console.print(
        f"Assumed: {CHARACTERS_PER_TOKEN:g} characters per token, {DESCRIPTION_TOKENS} tokens per description, "
        f"{COT_TOKENS} per chain of thought."
    )
    _print_price(console, price)


def print_baseline_estimate(face_count: int, model: str, labels: LabelSet, price: Price | None) -> None:
    """Print the estimate of `explllm.engine.baseline`: two requests per face, each with the image."""
    names, vision_tokens = ", ".join(labels), image_tokens(model).typical
    prompts = (
        render("explllm.engine", "baseline_label", labels=names),
        render("explllm.engine", "baseline_cot", labels=names, words=MAX_WORDS, target_words=MAX_WORDS),
    )
    first, second = (len(text) / CHARACTERS_PER_TOKEN for text in prompts)
    tokens_in = 2 * (vision_tokens + first) + LABEL_TOKENS + second
    result = Estimate(2 * face_count, round(face_count * tokens_in), face_count * (LABEL_TOKENS + COT_TOKENS))
    cost = "unknown" if price is None else f"{result.cost(price):,.2f} USD"
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{model}, {face_count:,} faces: {result.calls:,} calls, {result.tokens_in:,} tokens in, "
        f"{result.tokens_out:,} out, cost {cost}"
    )
    console.print(
        f"Assumed: {CHARACTERS_PER_TOKEN:g} characters per token, {vision_tokens:,} tokens per image, "
        f"{COT_TOKENS} tokens per chain of thought. Nothing was sent."
    )
    _print_price(console, price)


def _print_price(console: Console, price: Price | None) -> None:
    if price is None:
        console.print("The price of this model is unknown: give price_in and price_out (USD per million tokens).")
    else:
        prices = f"{price.price_in:g} in, {price.price_out:g} out"
        console.print(f"Prices: {prices}, USD per million tokens ({price.source}).")


def _prompt_tokens(face: Face, settings: EngineSettings) -> tuple[float, float, float, float]:
    units = format_units(face.action_units)
    prompts = (
        render("explllm.engine", "au2des", units=units, absent="x" * 300, unmeasured=""),
        render("explllm.engine", "des2exp", labels=", ".join(Expression), description=""),
        render("explllm.engine", "verification", units=units, unmeasured="", description=""),
        render(
            "explllm.engine",
            "refinement",
            expression=str(face.expression),
            words=settings.max_words,
            target_words=settings.max_words,
            units=units,
            problems=[],
            previous="",
            description="",
        ),
    )
    first, inferring, verifying, refining = (len(text) / CHARACTERS_PER_TOKEN for text in prompts)
    return first, inferring + DESCRIPTION_TOKENS, verifying + DESCRIPTION_TOKENS, refining + DESCRIPTION_TOKENS
