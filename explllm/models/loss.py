"""Training loss: cross entropy on answer tokens, averaged within each conversation, then over conversations.

Shape legend:
    B batch, T tokens, S supervised tokens of the whole batch, V vocabulary, D width of the language model
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers.utils import ModelOutput

from explllm.conversation.encoder import IGNORED
from explllm.models.fast_linear import multiply

_CHUNK = {"cpu": 2**22}
_CHUNK_ON_GPU = 2**25
"""Number of logits computed at a time: few enough for a CPU's cache, or enough to keep a GPU busy."""


@dataclass(frozen=True)
class LossSettings:
    """How the training loss smooths labels and weights tokens."""

    label_smoothing: float = 0.0
    """Share of each target's probability that is spread over the vocabulary, in [0, 1)."""
    average_answers: bool = False
    """Average within each answer first: the label in a CoT conversation then counts as much as the chain of thought."""


@dataclass
class ExpLLMOutput(ModelOutput):
    """Output of `ExpLLM.forward`."""

    loss: torch.Tensor | None = None
    """Scalar, float32."""
    logits: torch.Tensor | None = None
    """(B, T, V); (S, V) with `logits_at_labels_only`; (B, V) with `training_loss`."""
    action_units: torch.Tensor | None = None
    """(B, 24) intensities estimated from the image; None without a head for them."""
    expression_logits: torch.Tensor | None = None
    """(B, K) logits of the labels, estimated from the image tokens; None with ``input_ids`` or without a head for
    them."""


def answer_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the positions that predict answer tokens: one before each answer token.

    Args:
        labels: (B, T), -100 at positions without loss.

    Returns:
        Rows (S,) and columns (S,) of the predicting positions, and the target tokens (S,), in row order.
    """
    following = labels[:, 1:]
    rows, columns = (following != IGNORED).nonzero(as_tuple=True)
    return rows, columns, following[rows, columns]


def answer_numbers(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Number the answers of a batch; an answer is a run of adjacent supervised tokens.

    Args:
        rows: (S,) from `answer_positions`.
        columns: (S,) from `answer_positions`.

    Returns:
        (S,) number of each token's answer, from 0, in row order.
    """
    if not len(rows):
        return rows
    starts = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1] + 1)
    return functional.pad(starts.cumsum(0), (1, 0))


def label_positions(labels: torch.Tensor) -> torch.Tensor:
    """Find the first token of each conversation's label among the supervised tokens of a batch.

    The label is the shortest answer of a conversation: the only answer in FER, and one of two answers in CoT, in either
    order.

    Args:
        labels: (B, T) tokens to predict, -100 at positions without loss.

    Returns:
        (B,) indices into the S supervised tokens, in row order; 0 for a conversation without supervised tokens.
    """
    answer = functional.pad(labels[:, 1:] != IGNORED, (1, 1))  # (B, T + 1), False at both ends
    inside = answer[:, 1:-1]
    rows, starts = (inside & ~answer[:, :-2]).nonzero(as_tuple=True)
    lengths = (inside & ~answer[:, 2:]).nonzero(as_tuple=True)[1] - starts
    shortest = lengths.new_full((len(labels),), labels.shape[1]).scatter_reduce(0, rows, lengths, "amin")
    chosen = lengths == shortest[rows]
    supervised = (inside.flatten().cumsum(0) - 1).view_as(inside)
    positions = supervised.new_zeros(len(labels))
    positions[rows[chosen]] = supervised[rows[chosen], starts[chosen]]
    return positions


def token_weights(rows: torch.Tensor, conversations: int, answers: torch.Tensor | None = None) -> torch.Tensor:
    """Return the weight of each token's cross entropy in the loss.

    In a plain mean over tokens, a long chain of thought would outweigh a one-word label.

    Args:
        rows: (S,) index of each token's conversation.
        conversations: Number of conversations B; those without supervised tokens contribute 0.
        answers: (S,) number of each token's answer, from `answer_numbers`; if given, average within each answer first.

    Returns:
        (S,) float32. Their sum is the share of conversations with supervised tokens.
    """
    if answers is None:
        return 1 / (torch.bincount(rows, minlength=conversations)[rows] * conversations).float()
    sizes = torch.bincount(answers)
    answers_per_row = torch.bincount(rows[sizes.cumsum(0) - sizes], minlength=conversations)
    return 1 / (sizes[answers] * answers_per_row[rows] * conversations).float()


def conversation_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Sum the weighted cross entropy of tokens.

    Args:
        logits: (S, V) at the supervised positions.
        targets: (S,) target tokens.
        weights: (S,) from `token_weights`.
        label_smoothing: See `LossSettings`.

    Returns:
        Scalar, float32.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)
    return (losses * weights).sum()


def chunked_loss(
    head: nn.Module,
    states: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    label_smoothing: float,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `conversation_loss` for an output layer without storing the logits of all tokens.

    The logits of a chunk of tokens immediately become the chunk's gradient, as in Liger's kernel (Hsu et al. 2024).
    With Vicuna-7B, the logits and gradients of 16 chains of thought would take 1.2 GB.

    Args:
        head: The output layer. If it is not a plain linear layer, the logits of all tokens are stored.
        states: (S, D) last hidden states at the supervised positions.
        targets: (S,) target tokens.
        weights: (S,) from `token_weights`.
        label_smoothing: See `LossSettings`.
        labels: (B,) indices of the tokens whose logits are returned, from `label_positions`.

    Returns:
        The loss, a float32 scalar, and the logits (B, V) at `labels`, without gradient.
    """
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward or "forward" in head.__dict__:
        logits = head(states)  # a layer with LoRA, for example: only its own method computes the logits
        at_labels = logits.detach()[labels] if len(logits) else logits.new_zeros(len(labels), logits.shape[-1])
        return conversation_loss(logits, targets, weights, label_smoothing), at_labels
    if not isinstance(head, FSDPModule):
        return _loss_and_logits(head, targets, weights, label_smoothing, labels, states)
    # Run this as the layer's own method, so that FSDP2 gathers its weight before the call and releases it after.
    layer: Any = head
    layer.forward = partial(_loss_and_logits, head, targets, weights, label_smoothing, labels)
    try:
        loss, logits = layer(states)
    finally:
        del layer.forward
    return loss, logits


def chunk_bytes(tokens: int, vocabulary: int, dtype: torch.dtype, device: str = "cuda") -> int:
    """Return the memory that `chunked_loss` takes while it runs.

    Args:
        tokens: Supervised tokens S.
        vocabulary: Vocabulary size V.
        dtype: Data type of the output layer.
        device: Device of the output layer.

    Returns:
        Bytes.
    """
    rows = min(tokens, _rows_of_a_chunk(vocabulary, device))
    # Float32 probabilities, plus logits or gradients if their data type differs.
    return rows * vocabulary * (4 + (0 if dtype == torch.float32 else dtype.itemsize))


def _rows_of_a_chunk(vocabulary: int, device: str) -> int:
    return max(_CHUNK.get(device, _CHUNK_ON_GPU) // vocabulary, 1)


def _loss_and_logits(
    head: nn.Linear,
    targets: torch.Tensor,
    weights: torch.Tensor,
    label_smoothing: float,
    labels: torch.Tensor,
    states: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    layer: tuple[torch.Tensor | None, ...] = states, head.weight, head.bias
    if not torch.is_grad_enabled():
        layer = tuple(None if tensor is None else tensor.detach() for tensor in layer)
    return _ChunkedLoss.apply(*layer, targets, weights, label_smoothing, labels)


class _ChunkedLoss(torch.autograd.Function):
    """The weighted cross entropy of a linear layer's logits, with gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor,
        label_smoothing: float,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of states (S, D), output weights (V, D) and targets (S,), and the logits at labels (B,).

        `weights` (S,) contains one weight per token.
        """
        device = states.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        matrix = weight.to(dtype)  # convert once: autocast would do so for every chunk
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        states_grad = torch.empty_like(states, dtype=torch.float32) if needs_states else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs_bias else None
        loss = states.new_zeros((), dtype=torch.float32)
        label_logits = states.new_zeros(len(labels), len(weight), dtype=dtype)
        size = _rows_of_a_chunk(len(weight), device)
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            for start in range(0, len(states), size):
                rows = slice(start, start + size)
                inputs, target, share = states[rows].to(dtype), targets[rows, None], weights[rows, None]
                logits = multiply(inputs, matrix, None if bias is None else bias.to(dtype))
                places = labels - start
                inside = (places >= 0) & (places < len(inputs))
                label_logits = torch.where(inside[:, None], logits[places.clamp(0, len(inputs) - 1)], label_logits)
                # In place: on a CPU, writing to new memory takes longer than the arithmetic.
                probabilities = logits.float()
                del logits
                probabilities -= probabilities.amax(1, keepdim=True)
                losses = (label_smoothing - 1) * probabilities.gather(1, target)
                if label_smoothing:
                    losses -= label_smoothing * probabilities.mean(1, keepdim=True)
                totals = probabilities.exp_().sum(1, keepdim=True)
                loss += (share * (losses + totals.log())).sum()
                # The gradient of the logits, without the token's weight: probability minus target.
                gradient = probabilities.div_(totals)
                if label_smoothing:
                    gradient -= label_smoothing / len(weight)
                gradient.scatter_add_(1, target, torch.full_like(losses, label_smoothing - 1))
                if bias_grad is not None:
                    bias_grad += (share * gradient).sum(0)
                gradient = gradient.to(dtype)
                if states_grad is not None:
                    torch.mul(multiply(gradient, matrix.t()), share, out=states_grad[rows])
                if weight_grad is not None:
                    # Divide by the largest token weight, because small weights would otherwise become 0 in float16.
                    weight_grad += gradient.t() @ (share / weights.max() * inputs).to(dtype)
        if weight_grad is not None and len(weights):
            weight_grad *= weights.max()
        ctx.save_for_backward(states_grad, weight_grad, bias_grad)
        ctx.dtypes = states.dtype, weight.dtype, weight.dtype
        ctx.mark_non_differentiable(label_logits)
        return loss, label_logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor, _: Any) -> Any:  # pyrefly: ignore[bad-override]
        """Scale the gradients of states, output weights and bias."""
        scaled = [
            None if gradient is None else (gradient * scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None, None
