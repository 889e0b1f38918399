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
"""Rule of thumb for English prose and current tokenizers."""
DESCRIPTION_TOKENS, COT_TOKENS, LABEL_TOKENS = 350, 220, 8
"""Assumed lengths of the answers, in tokens. A chain of thought of 130 words has about 200 tokens."""


@dataclass(frozen=True)
class Estimate:
    """Calls, tokens and cost of a whole manifest."""

    rounds: float
    """Reflection rounds per face, on average."""
    calls: int
    """Answered requests, not counting retries."""
    tokens_in: int
    """Prompt tokens."""
    tokens_out: int
    """Answer tokens."""
    cost: float | None
    """USD; None if the price is unknown."""


@dataclass(frozen=True)
class BuildEstimate:
    """What `explllm cot estimate` reports."""

    model: str | None
    faces: int
    skipped: dict[str, int]
    """Number of skipped rows by reason."""
    price: Price | None
    cases: tuple[Estimate, ...]
    """Estimates for 0, 0.5 and the maximum number of reflection rounds per face."""


def estimate(manifest: Manifest, settings: EngineSettings, rounds: float, price: Price | None) -> Estimate:
    """Estimate the requests of the engine for a manifest, given the average number of reflection rounds per face.

    The first pass and each reflection round make three requests: describe the face, infer the expression from the
    description, and verify it. One refinement follows at the end.
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
    cost = None if price is None else price.cost(round(tokens_in), round(tokens_out))
    return Estimate(rounds, round(calls), round(tokens_in), round(tokens_out), cost)


def estimate_build(manifest: Manifest, settings: EngineSettings, chat: ChatSettings) -> BuildEstimate:
    """Estimate the requests, tokens and cost of a build for 0, 0.5 and the maximum number of rounds per face.

    Raises:
        InputError: If the manifest lacks action units or labels, or no row has both.
    """
    manifest.require("action_units", "expression")
    skipped, price = skipped_rows(manifest), chat.price()
    rounds = (0.0, 0.5, float(settings.max_rounds))
    cases = tuple(estimate(manifest, settings, number, price) for number in rounds)
    return BuildEstimate(chat.model or None, sum(1 for _ in faces(manifest)), skipped, price, cases)


def print_estimate(result: BuildEstimate) -> None:
    """Print an estimate as a table."""
    title = Text(f"{result.model or 'any model'}, {result.faces:,} faces")
    table = Table(title=title, title_justify="left")
    table.add_column("rounds of reflection")
    for column in ("calls", "tokens in", "tokens out", "USD"):
        table.add_column(column, justify="right")
    names = ("none: all accepted immediately", "one for every other face", "all")
    for name, case in zip(names, result.cases, strict=True):
        cost = "unknown" if case.cost is None else f"{case.cost:,.2f}"
        table.add_row(name, f"{case.calls:,}", f"{case.tokens_in:,}", f"{case.tokens_out:,}", cost)
    console = Console(highlight=False, soft_wrap=True)
    print_table(console, table)
    for reason, count in result.skipped.items():
        console.print(f"skipped: {count:,} rows with {reason}")
    console.print(
        f"Assumed: {CHARACTERS_PER_TOKEN:g} characters per token, {DESCRIPTION_TOKENS} tokens per description, "
        f"{COT_TOKENS} per chain of thought."
    )
    _print_price(console, result.price)


def print_baseline_estimate(face_count: int, model: str, labels: LabelSet, price: Price | None) -> None:
    """Print the estimate for `explllm.engine.baseline`: two requests per face, each with the image."""
    names, vision_tokens = ", ".join(labels), image_tokens(model).typical
    prompts = (
        render("explllm.engine", "baseline_label", labels=names),
        render("explllm.engine", "baseline_cot", labels=names, words=MAX_WORDS, target_words=MAX_WORDS),
    )
    first, second = (len(text) / CHARACTERS_PER_TOKEN for text in prompts)
    tokens_in = round(face_count * (2 * (vision_tokens + first) + LABEL_TOKENS + second))
    tokens_out = face_count * (LABEL_TOKENS + COT_TOKENS)
    cost = "unknown" if price is None else f"{price.cost(tokens_in, tokens_out):,.2f} USD"
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{model}, {face_count:,} faces: {2 * face_count:,} calls, {tokens_in:,} tokens in, "
        f"{tokens_out:,} out, cost {cost}"
    )
    console.print(
        f"Assumed: {CHARACTERS_PER_TOKEN:g} characters per token, {vision_tokens:,} tokens per image, "
        f"{COT_TOKENS} tokens per chain of thought. Nothing was sent."
    )
    _print_price(console, price)


def _print_price(console: Console, price: Price | None) -> None:
    if price is None:
        console.print("The price of this model is unknown; set price_in and price_out (USD per million tokens).")
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
