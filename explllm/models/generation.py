"""Inference: the likelihood of every label in one forward pass, and chains of thought by greedy decoding.

Shape legend:
    B batch, K labels, P tokens of image and prompt, S tokens of all labels but their last ones, A tokens of all labels,
    N image tokens, D width of the language model, H and W image height and width
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from transformers import Cache, TextIteratorStreamer

from explllm.conversation.encoder import IGNORED, Encoded
from explllm.conversation.messages import explanation, recognition
from explllm.core.expressions import Expression

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM


@dataclass(frozen=True)
class Recognition:
    """The expression of one face."""

    expression: Expression
    """The most likely class."""
    probabilities: dict[Expression, float]
    """The probability of each class, in index order. They sum to 1."""

    @classmethod
    def of(cls, labels: Sequence[Expression], probabilities: Sequence[float]) -> "Recognition":
        """Pair classes with their probabilities. In a tie, the first class wins."""
        pairs = dict(zip(labels, probabilities, strict=True))
        return cls(max(pairs, key=pairs.__getitem__), pairs)

    @property
    def confidence(self) -> float:
        """The probability of `expression`."""
        return self.probabilities[self.expression]


class PackedLabels(NamedTuple):
    """All labels behind one shared prompt, in one sequence.

    Each label sees the prompt and its own tokens. With a prompt of 3 tokens and the labels ``a b </s>`` and ``c </s>``,
    the mask (rows attend to columns), positions and targets are::

                 p p p a b c     position    predicts
        p        x               0
        p        x x             1
        p        x x x           2           a, c
        a        x x x x         3           b
        b        x x x x x       4           </s>
        c        x x x     x     3           </s>
    """

    prompt: torch.Tensor
    """(P,) token ids."""
    inputs: torch.Tensor
    """(S,) token ids of all labels, each without its last token."""
    mask: torch.Tensor
    """(1, 1, P + S, P + S), True where a row attends to a column."""
    positions: torch.Tensor
    """(1, P + S)."""
    sources: torch.Tensor
    """(A,) for each token of each label, the position that predicts it: 0 is the end of the prompt, s + 1 input s."""
    targets: torch.Tensor
    """(A,) token ids to predict."""
    owners: torch.Tensor
    """(A,) index of each target's label."""


def pack_labels(model: "ExpLLM") -> PackedLabels:
    """Pack the labels of a model behind its recognition prompt."""
    conversations = model.conversations
    prompt = conversations.encode_prompt(recognition())
    size = len(prompt)
    inputs: list[int] = []
    positions = list(range(size))
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    blocks: list[tuple[int, int]] = []
    for number, label in enumerate(model.labels):
        answer = conversations.encode_answer(recognition(), str(label))
        sources += [0, *range(len(inputs) + 1, len(inputs) + len(answer))]
        targets += answer
        owners += [number] * len(answer)
        blocks.append((size + len(inputs), size + len(inputs) + len(answer) - 1))
        inputs += answer[:-1]
        positions += range(size, size + len(answer) - 1)
    mask = torch.ones(len(positions), len(positions), dtype=torch.bool, device=model.device).tril()
    for start, end in blocks:
        mask[start:end, size:start] = False
    ids = [
        torch.tensor(values, device=model.device) for values in (prompt, inputs, positions, sources, targets, owners)
    ]
    return PackedLabels(ids[0], ids[1].long(), mask[None, None], ids[2][None], *ids[3:])


def supports_packing(model: "ExpLLM", length: int) -> bool:
    """Return whether the language model computes a packed sequence of this length exactly.

    It needs an attention implementation that accepts a mask, explicit positions, and full attention in all layers.
    """
    config = model.language.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        config._attn_implementation in ("eager", "sdpa")
        and "position_ids" in inspect.signature(model.language.forward).parameters
        and layers <= {"full_attention", "sliding_attention"}
        and (window is None or length <= window)
    )


@torch.no_grad()
def label_log_likelihoods(model: "ExpLLM", pixel_values: torch.Tensor) -> torch.Tensor:
    """Score every label as the answer to the recognition prompt.

    Image, prompt and all labels, end tokens included, form one packed sequence per face (see `PackedLabels`): one
    forward pass without a cache. On an out-of-memory error, the batch is halved, now and in later calls.

    Args:
        model: The model, with labels.
        pixel_values: (B, 3, H, W).

    Returns:
        (B, K) float32: the log-likelihood of each whole label.
    """

    def score(rows: slice) -> list[torch.Tensor]:
        return [*_score_labels(model, model.encode_image(pixel_values[rows]))[0]]

    return torch.stack(_in_smaller_batches(model, "recognition", score, len(pixel_values)))


def _in_smaller_batches(model: "ExpLLM", kind: str, compute: Callable[[slice], list[Any]], count: int) -> list[Any]:
    """Compute results for the rows of a batch, in smaller batches if memory is short, and concatenate them.

    Args:
        model: The model; it keeps the batch size that fitted.
        kind: The computation that the batch size applies to.
        compute: Returns one result per row of a slice.
        count: Number of rows.

    Returns:
        The results of all rows.
    """
    size = min(count, model.max_batch_sizes.get(kind, count))
    results: list[Any] = []
    while len(results) < count:
        try:
            results += compute(slice(len(results), len(results) + size))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (min(size, count - len(results)) + 1) // 2
            model.max_batch_sizes[kind] = size
        else:
            continue
        # Outside of the handler, whose exception keeps the tensors of the failed pass alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(f"out of memory: {kind} continues with batches of {size} faces", stacklevel=3)
    return results


def _score_labels(
    model: "ExpLLM", image_embeds: torch.Tensor, use_cache: bool = False
) -> tuple[torch.Tensor, Cache | None]:
    """Return log-likelihoods (B, K) and, with `use_cache`, the cache of image and prompt if it can be continued."""
    packed = pack_labels(model)
    faces, extra = len(image_embeds), len(packed.inputs)
    if not supports_packing(model, packed.mask.shape[-1]):
        return _score_labels_one_by_one(model, image_embeds), None
    ids = torch.cat([packed.prompt, packed.inputs])
    embeds = model.embed(ids.expand(faces, -1), image_embeds)
    mask = torch.zeros_like(packed.mask, dtype=embeds.dtype).masked_fill(~packed.mask, torch.finfo(embeds.dtype).min)
    output = model.language(
        inputs_embeds=embeds,
        # Without labels of several tokens, the mask is causal: attention then uses its faster kernel.
        attention_mask=mask if extra else None,
        position_ids=packed.positions,
        use_cache=use_cache,
        logits_to_keep=extra + 1,
    )
    scores = torch.zeros(faces, len(model.labels), device=embeds.device)
    for row in range(faces):  # one face at a time: float32 logits of a batch would take more memory than its cache
        logits = output.logits[row].float()
        chosen = logits[packed.sources, packed.targets] - logits.logsumexp(-1)[packed.sources]
        scores[row].index_add_(0, packed.owners, chosen)
    cache = output.past_key_values if use_cache else None
    if cache is not None and extra:
        cache.crop(-extra)
    return scores, cache


def _score_labels_one_by_one(model: "ExpLLM", image_embeds: torch.Tensor) -> torch.Tensor:
    """Score each label in a forward pass of its own, for language models that cannot process packed labels."""
    prompt = model.conversations.encode_prompt(recognition())
    columns = []
    for label in model.labels:
        answer = model.conversations.encode_answer(recognition(), str(label))
        ids = torch.tensor([*prompt, *answer[:-1]], device=model.device).expand(len(image_embeds), -1)
        embeds = model.embed(ids, image_embeds)
        logits = model.language(inputs_embeds=embeds, use_cache=False, logits_to_keep=len(answer)).logits
        targets = torch.tensor(answer, device=model.device).expand(len(image_embeds), -1)
        columns.append(logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).sum((1, 2)))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def explain(
    model: "ExpLLM", pixel_values: torch.Tensor, labels: Sequence[Expression], max_new_tokens: int
) -> list[str]:
    """Generate the second round of the CoT conversation greedily, after the given labels.

    Prompts are padded on the left; a face gets the same answer in a batch as alone.

    Args:
        model: The model.
        pixel_values: (B, 3, H, W).
        labels: The B answers of the first round.
        max_new_tokens: Maximum length of an answer, in tokens.

    Returns:
        B texts.
    """

    def generate(rows: slice) -> list[str]:
        inputs = _generation_inputs(model, pixel_values[rows], labels[rows], max_new_tokens)
        return [model.conversations.decode(ids) for ids in _generate(model)(**inputs)]

    return _in_smaller_batches(model, "explanation", generate, len(pixel_values))


@torch.no_grad()
def recognize_and_explain(
    model: "ExpLLM", pixel_values: torch.Tensor, max_new_tokens: int
) -> list[tuple[Recognition, str]]:
    """Recognize faces, then generate their chains of thought after the recognized labels.

    The recognition prompt begins the conversation of the explanation: image and prompt are prefilled once for both.

    Args:
        model: The model, with labels.
        pixel_values: (B, 3, H, W).
        max_new_tokens: Maximum length of a chain of thought, in tokens.

    Returns:
        Recognition and text of each face.
    """

    def answer(rows: slice) -> list[tuple[Recognition, str]]:
        image_embeds = model.encode_image(pixel_values[rows])
        scores, cache = _score_labels(model, image_embeds, use_cache=True)
        recognitions = [Recognition.of(model.labels, row) for row in scores.softmax(1).tolist()]
        labels = [result.expression for result in recognitions]
        inputs = _generation_inputs(model, image_embeds, labels, max_new_tokens, cache)
        start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        generated = _generate(model)(**inputs)
        return [
            (result, model.conversations.decode(row[start:]))
            for result, row in zip(recognitions, generated, strict=True)
        ]

    return _in_smaller_batches(model, "explanation", answer, len(pixel_values))


def stream(model: "ExpLLM", pixel_values: torch.Tensor, label: Expression, max_new_tokens: int) -> Iterator[str]:
    """Generate as `explain` does for one image, and yield the text piece by piece.

    Args:
        model: The model.
        pixel_values: (1, 3, H, W).
        label: The answer of the first round.
        max_new_tokens: Maximum length of the answer, in tokens.

    Yields:
        Pieces of text.
    """
    # Generation from embeddings passes no prompt to the streamer.
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=False, skip_special_tokens=True)
    with torch.inference_mode():
        inputs = _generation_inputs(model, pixel_values, [label], max_new_tokens)
    failure: list[BaseException] = []

    def generate() -> None:
        try:
            with torch.inference_mode():
                _generate(model)(**inputs, streamer=streamer)
        except BaseException as error:
            failure.append(error)
            streamer.end()

    thread = Thread(target=generate, daemon=True)
    thread.start()
    started = False
    for piece in streamer:
        text = piece if started else piece.lstrip()
        started = started or bool(text)
        if text:
            yield text
    thread.join()
    if failure:
        raise failure[0]


def _generate(model: "ExpLLM") -> Callable[..., torch.Tensor]:
    # transformers mixes generation into causal language models only at run time.
    return cast(Callable[..., torch.Tensor], model.language.generate)


def _generation_inputs(
    model: "ExpLLM",
    images: torch.Tensor,
    labels: Sequence[Expression],
    max_new_tokens: int,
    cache: Cache | None = None,
) -> dict[str, Any]:
    """Return the arguments of `generate`.

    Args:
        model: The model.
        images: Image embeddings (B, N, D), or pixel values (B, 3, H, W).
        labels: The B answers of the first round.
        max_new_tokens: Maximum length of an answer, in tokens.
        cache: Keys and values of image and recognition prompt. Generation continues after them.

    Returns:
        Arguments with ``input_ids`` to continue from the cache, or with ``inputs_embeds`` without one.
    """
    conversations, device = model.conversations, model.device
    prompts = [conversations.encode_prompt(explanation(str(label))) for label in labels]
    prefix = conversations.encode_prompt(recognition())
    if cache is not None and any(prompt[: len(prefix)] != prefix for prompt in prompts):
        cache = None
    # With a cache, the padding is between the shared prefix, which it holds, and the rest of the conversation.
    cached = len(prefix) if cache is not None else 0
    rows = [Encoded(ids[cached:], (IGNORED,) * (len(ids) - cached)) for ids in prompts]
    batch = conversations.batch(rows, side="left")
    inputs: dict[str, Any]
    if cache is None:
        embeds = model.encode_image(images) if images.ndim == 4 else images
        inputs = {
            "inputs_embeds": model.embed(batch.input_ids.to(device), embeds),
            "attention_mask": batch.attention_mask.to(device),
        }
    else:
        # The ids of the prefix are only counted. Image placeholders may lie outside the vocabulary.
        counted = torch.zeros(len(prompts), cached, dtype=torch.long)
        inputs = {
            "input_ids": torch.cat([counted, batch.input_ids], dim=1).to(device),
            "attention_mask": torch.cat([counted + 1, batch.attention_mask], dim=1).to(device),
            "past_key_values": cache,
        }
    return inputs | {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        # The base model's own sampling settings do not apply to greedy decoding.
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "eos_token_id": conversations.end_token_ids,
        "pad_token_id": conversations.pad_token_id,
        "use_cache": True,
    }
