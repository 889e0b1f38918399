"""Training loss: cross entropy on answer tokens, averaged within each conversation, then over conversations.

Shape legend:
    B batch, T tokens, S supervised tokens of the whole batch, V vocabulary, U action units (24)
"""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers.utils import ModelOutput

from explllm.conversation.encoder import IGNORED


@dataclass
class ExpLLMOutput(ModelOutput):
    """Output of `ExpLLM.forward`."""

    loss: torch.Tensor | None = None
    """Scalar, float32."""
    logits: torch.Tensor | None = None
    """(B, T, V), or (S, V) with `logits_at_labels_only`."""
    action_unit_logits: torch.Tensor | None = None
    """(B, 24) intensities before the sigmoid, estimated from the image tokens; None without an action unit head."""


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


def conversation_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    rows: torch.Tensor,
    conversations: int,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Average the cross entropy within each conversation, then over conversations.

    In a plain mean over tokens, a long chain of thought would outweigh a one-word label.

    Args:
        logits: (S, V) at the supervised positions.
        targets: (S,) target tokens.
        rows: (S,) index of each token's conversation.
        conversations: Number of conversations B; one without supervised tokens contributes 0.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in [0, 1).

    Returns:
        Scalar, float32.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)
    totals = losses.new_zeros(conversations).index_add_(0, rows, losses)
    counts = torch.bincount(rows, minlength=conversations).clamp(min=1)
    return (totals / counts).mean()


def action_unit_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy between estimated and measured intensities, both in [0, 1].

    Args:
        logits: (B, U) estimates before the sigmoid.
        targets: (B, U) measured intensities; NaN for units that were not measured, which add nothing.

    Returns:
        Scalar, float32; 0 if nothing was measured.
    """
    known = ~targets.isnan()
    losses = functional.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none")
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)
