"""Likelihoods of several answers to one question, computed in one forward pass with a shared prompt.

Shape legend:
    B batch, K answers, P tokens of image and prompt, S tokens of all answers without the last token of each, A tokens
    of all answers, U action units
"""

import inspect
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import PreTrainedModel

from explllm.conversation.encoder import ConversationEncoder
from explllm.conversation.messages import ACTIVE, NOT_ACTIVE, conversation, recognition, unit_state
from explllm.models.decoding import Decoder, last_positions, prompt_logits

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM


class PackedLabels(NamedTuple):
    """All labels packed into one sequence after a shared prompt.

    Each label attends to the prompt and its own tokens. With a prompt of 3 tokens and the labels ``a b </s>`` and
    ``c </s>``, the mask (rows attend to columns), positions and targets are::

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
    """(A,) position that predicts each label token: 0 for the end of the prompt, s + 1 for input s."""
    targets: torch.Tensor
    """(A,) token ids to predict."""
    owners: torch.Tensor
    """(A,) index of each target's label."""


def pack_labels(model: "ExpLLM") -> PackedLabels:
    """Pack the labels of a model after its recognition prompt."""
    return _pack_labels(model.device, model.conversations, tuple(model.labels))


@lru_cache(maxsize=8)  # looking up each label's tokens takes 1/40 of the time to score one face with a small model
def _pack_labels(device: torch.device, conversations: ConversationEncoder, labels: tuple[str, ...]) -> PackedLabels:
    answers = [conversations.encode_answer(recognition(), str(label)) for label in labels]
    branches = tuple((tuple(answer), len(answer)) for answer in answers)
    return pack(device, conversations.encode_prompt(recognition()), branches)


def pack_unit_states(model: "ExpLLM", units: Sequence[str]) -> PackedLabels:
    """Pack the two answers about each action unit after the prefix (including the image) that all questions share.

    Args:
        model: The model.
        units: Names of U action units.

    Returns:
        2 U entries: for each unit, the question with the answer "active", then with "not active".
    """
    conversations, texts = model.conversations, []
    for unit in units:
        question = conversation([(unit_state(unit), None)])
        prompt = conversations.encode_prompt(question)
        for answer in (ACTIVE, NOT_ACTIVE):
            ids = conversations.encode_answer(question, answer)
            texts.append((prompt + ids, len(ids)))
    columns = zip(*(ids for ids, _ in texts), strict=False)
    # Leave at least one id of the first sequence out of the shared prefix.
    shared = min(sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)), len(texts[0][0]) - 1)
    return pack(model.device, texts[0][0][:shared], tuple((ids[shared:], scored) for ids, scored in texts))


@lru_cache(maxsize=8)  # packing takes 1/20 of the time to score one face with a small model
@torch.inference_mode(False)  # a later call, with gradients, may use the cached tensors
def pack(
    device: torch.device, prompt: tuple[int, ...], branches: tuple[tuple[tuple[int, ...], int], ...]
) -> PackedLabels:
    """Pack token sequences after one shared prompt.

    Args:
        device: Device of the tensors.
        prompt: Token ids.
        branches: For each sequence, the ids that follow the prompt, and how many of the last ids are scored.
    """
    size = len(prompt)
    inputs: list[int] = []
    positions = list(range(size))
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    blocks: list[tuple[int, int]] = []
    for number, (branch, scored) in enumerate(branches):
        places = range(len(branch) - scored, len(branch))
        sources += [len(inputs) + place if place else 0 for place in places]
        targets += branch[-scored:]
        owners += [number] * scored
        blocks.append((size + len(inputs), size + len(inputs) + len(branch) - 1))
        inputs += branch[:-1]
        positions += range(size, size + len(branch) - 1)
    mask = torch.ones(len(positions), len(positions), dtype=torch.bool, device=device).tril()
    for start, end in blocks:
        mask[start:end, size:start] = False
    ids = [torch.tensor(values, device=device) for values in (prompt, inputs, positions, sources, targets, owners)]
    return PackedLabels(ids[0], ids[1].long(), mask[None, None], ids[2][None], *ids[3:])


def supports_packing(model: "ExpLLM") -> bool:
    """Return whether an attention mask lets the language model score packed sequences exactly like separate ones."""
    return accepts_masks(model.language) and accepts_positions(model.language)


def accepts_masks(language: PreTrainedModel) -> bool:
    """Return whether the attention of a language model accepts any mask."""
    return language.config._attn_implementation in ("eager", "sdpa")


def accepts_positions(language: PreTrainedModel) -> bool:
    """Return whether a language model mixes tokens only by attention, at positions that the caller can set."""
    layers = getattr(language.config, "layer_types", None) or ()
    return _has_positions(type(language)) and set(layers) <= {"full_attention", "sliding_attention"}


@cache
def _has_positions(language: type[PreTrainedModel]) -> bool:
    return "position_ids" in inspect.signature(language.forward).parameters


def score_labels(model: "ExpLLM", image_embeds: torch.Tensor, decoder: Decoder | None = None) -> torch.Tensor:
    """Return log-likelihoods (B, K); a decoder that supports packing stores the prompt's keys and values."""
    return score_packed(model, image_embeds, pack_labels(model), len(model.labels), decoder)


def score_packed(
    model: "ExpLLM", image_embeds: torch.Tensor, packed: PackedLabels, count: int, decoder: Decoder | None = None
) -> torch.Tensor:
    """Return the log-likelihoods (B, count) of packed sequences; `decoder` is as for `score_labels`."""
    faces, extra = len(image_embeds), len(packed.inputs)
    if not supports_packing(model):
        return _score_one_by_one(model, image_embeds, packed, count)
    ids = torch.cat([packed.prompt, packed.inputs])
    # If every label has one token, the mask is causal, and attention uses a faster kernel.
    mask = packed.mask if extra else None
    decoder = decoder if decoder is not None and decoder.packs else None
    logits_of_faces = prompt_logits(model, ids, image_embeds, decoder, mask, packed.positions, keep=extra + 1)
    scores = torch.zeros(faces, count, device=logits_of_faces.device)
    for row in range(faces):  # one by one: float32 logits of the batch would take more memory than the batch's cache
        logits = logits_of_faces[row].float()
        chosen = logits[packed.sources, packed.targets] - logits.logsumexp(-1)[packed.sources]
        scores[row].index_add_(0, packed.owners, chosen)
    return scores


def _score_one_by_one(model: "ExpLLM", image_embeds: torch.Tensor, packed: PackedLabels, count: int) -> torch.Tensor:
    """Score each sequence in a separate forward pass, for language models that cannot process packed sequences."""
    columns = []
    size = len(packed.prompt)
    for number in range(count):
        scored = packed.owners == number
        sources, targets = packed.sources[scored], packed.targets[scored]
        # The position that predicts the last scored id attends to exactly the inputs of this sequence.
        last = int(sources[-1])
        own = packed.mask[0, 0, size + last - 1, size:].nonzero().flatten() if last else sources.new_empty(0)
        ids = torch.cat([packed.prompt, packed.inputs[own]]).expand(len(image_embeds), -1)
        embeds = model.embed(ids, image_embeds)
        keep = last_positions(ids, len(targets))
        logits = model.language(inputs_embeds=embeds, use_cache=False, logits_to_keep=keep).logits
        chosen = logits.float().log_softmax(-1).gather(-1, targets.expand(len(image_embeds), -1).unsqueeze(-1))
        columns.append(chosen.sum((1, 2)))
    return torch.stack(columns, dim=1)
