"""The training loss: answer tokens only, averaged inside each conversation and then over the conversations."""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers.utils import ModelOutput

from explllm.conversation.encoder import IGNORED


@dataclass
class ExpLLMOutput(ModelOutput):
    """What `ExpLLM.forward` returns."""

    loss: torch.Tensor | None = None
    """Scalar, float32."""
    logits: torch.Tensor | None = None
    """(B, T, V), or (S, V) at the supervised positions only."""


def answer_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find where answer tokens are predicted: one position before each of them.

    Args:
        labels: (B, T), -100 where no loss is taken.

    Returns:
        Rows (S,), columns (S,) of the predicting positions and the tokens (S,) to predict, in row order.
    """
    following = labels[:, 1:]
    rows, columns = (following != IGNORED).nonzero(as_tuple=True)
    return rows, columns, following[rows, columns]


def conversation_loss(
    logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, conversations: int
) -> torch.Tensor:
    """Average the cross entropy inside each conversation first and then over the conversations.

    A plain mean over the tokens of a batch would drown a one-word label in the words of a chain of thought.

    Args:
        logits: (S, V) at the supervised positions.
        targets: (S,) tokens to predict.
        rows: (S,) the conversation that each belongs to.
        conversations: Conversations B in the batch; one without any supervised token counts as 0.

    Returns:
        Scalar, float32.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    totals = losses.new_zeros(conversations).index_add_(0, rows, losses)
    counts = torch.bincount(rows, minlength=conversations).clamp(min=1)
    return (totals / counts).mean()
