"""Training loss: cross entropy on answer tokens, averaged within each conversation, then over conversations.

Shape legend:
    B batch, T tokens, S supervised tokens of the whole batch, V vocabulary
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
    action_units: torch.Tensor | None = None
    """(B, 24) intensities estimated from the image; None without a head for them."""
    expression_logits: torch.Tensor | None = None
    """(B, K) logits of the labels, estimated from the image tokens; None without a head for them."""


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
    """Number the answers of a batch: runs of adjacent supervised tokens.

    Args:
        rows: (S,) from `answer_positions`.
        columns: (S,) from `answer_positions`.

    Returns:
        (S,) number of each token's answer, from 0, in row order.
    """
    starts = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1] + 1)
    return functional.pad(starts.cumsum(0), (1, 0))


def conversation_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    rows: torch.Tensor,
    conversations: int,
    label_smoothing: float = 0.0,
    rounds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Average the cross entropy within each conversation, then over conversations.

    In a plain mean over tokens, a long chain of thought would outweigh a one-word label.

    Args:
        logits: (S, V) at the supervised positions.
        targets: (S,) target tokens.
        rows: (S,) index of each token's conversation.
        conversations: Number of conversations B; one without supervised tokens contributes 0.
        label_smoothing: Share of each target's probability that is spread over the vocabulary, in [0, 1).
        rounds: (S,) number of each token's answer, from `answer_numbers`, to average within each answer first: the
            label of a CoT conversation then counts as much as its chain of thought.

    Returns:
        Scalar, float32.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)
    if rounds is not None:
        sizes = torch.bincount(rounds)
        # Each answer's losses are scaled to the size of the conversation's share that an average over answers gives it.
        answers = torch.bincount(rows[torch.cat([rounds.new_zeros(1), sizes.cumsum(0)[:-1]])], minlength=conversations)
        weights = 1 / (sizes[rounds] * answers[rows])
        return losses.new_zeros(conversations).index_add_(0, rows, losses * weights).mean()
    totals = losses.new_zeros(conversations).index_add_(0, rows, losses)
    counts = torch.bincount(rows, minlength=conversations).clamp(min=1)
    return (totals / counts).mean()
