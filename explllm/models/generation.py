"""Inference: the likelihood of each label from one prefill, and chains of thought by greedy decoding.

Shape legend:
    B batch, T text and image tokens, K labels, L tokens of the longest label, H and W image height and width
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TextIteratorStreamer

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


@torch.no_grad()
def label_log_likelihoods(model: "ExpLLM", pixel_values: torch.Tensor) -> torch.Tensor:
    """Score every label as the answer to the recognition prompt.

    The image and the prompt are prefilled once. One short forward pass over all labels, end token included, continues
    from the cache.

    Args:
        model: The model, with labels.
        pixel_values: (B, 3, H, W).

    Returns:
        (B, K) float32: the log-likelihood of each whole label.
    """
    conversations, language, device = model.conversations, model.language, model.device
    prompt = torch.tensor(conversations.encode_prompt(recognition()), device=device)
    answers = [conversations.encode_answer(recognition(), str(label)) for label in model.labels]
    targets = torch.full((len(answers), max(map(len, answers))), IGNORED, device=device)  # (K, L)
    for row, answer in enumerate(answers):
        targets[row, : len(answer)] = torch.tensor(answer, device=device)

    faces, labels, length = len(pixel_values), *targets.shape
    embeds = model.embed(prompt.expand(faces, -1), model.encode_image(pixel_values))
    prefill = language(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
    first = prefill.logits[:, -1].float().log_softmax(-1)[:, targets[:, 0]]  # (B, K)
    if length == 1:
        return first
    cache = prefill.past_key_values
    cache.batch_repeat_interleave(labels)
    # Padding follows the label's tokens, so the causal mask hides it from them.
    inputs = targets[:, :-1].clamp(min=0).repeat(faces, 1)  # (B * K, L - 1)
    mask = torch.ones(len(inputs), len(prompt) + length - 1, dtype=torch.long, device=device)
    logits = language(input_ids=inputs, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    later = targets[:, 1:].repeat(faces, 1)  # (B * K, L - 1)
    scores = logits.float().log_softmax(-1).gather(-1, later.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return first + scores.masked_fill(later == IGNORED, 0).sum(1).view(faces, labels)


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
    generated = _generate(model)(**_generation_inputs(model, pixel_values, labels, max_new_tokens))
    return [model.conversations.decode(row) for row in generated]


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
    model: "ExpLLM", pixel_values: torch.Tensor, labels: Sequence[Expression], max_new_tokens: int
) -> dict[str, Any]:
    conversations = model.conversations
    prompts = [conversations.encode_prompt(explanation(str(label))) for label in labels]
    batch = conversations.batch([Encoded(ids, (IGNORED,) * len(ids)) for ids in prompts], side="left")
    device = model.device
    return {
        "inputs_embeds": model.embed(batch.input_ids.to(device), model.encode_image(pixel_values)),
        "attention_mask": batch.attention_mask.to(device),
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        # The base model's own sampling settings do not apply to greedy decoding.
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "eos_token_id": conversations.tokenizer.eos_token_id,
        "pad_token_id": conversations.pad_token_id,
        "use_cache": True,
    }
