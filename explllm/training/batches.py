"""Batch operations of a training step: split a batch, choose action units, and blend faces.

Shape legend:
    B batch, T tokens, H and W image height and width
"""

import torch

from explllm.data.dataset import Batch
from explllm.models.loss import answer_numbers, answer_positions


def parts_of_similar_length(batch: Batch) -> tuple[torch.Tensor, list[Batch]]:
    """Split a batch into short conversations (up to half the maximum length) and long ones, to reduce padding.

    Args:
        batch: A batch of conversations, padded on the right.

    Returns:
        The indices (B,) into the batch in the order of the parts; and the parts (one if all conversations have similar
        lengths, else two), each without columns that contain only padding.
    """
    lengths = batch["attention_mask"].sum(1)
    short = 2 * lengths <= lengths.max()
    groups = [rows for rows in (short.nonzero().squeeze(1), (~short).nonzero().squeeze(1)) if len(rows)]
    parts = []
    for rows in groups:
        part = {name: value[rows] for name, value in batch.items() if isinstance(value, torch.Tensor)}
        columns = int(lengths[rows].max())
        parts.append(part | {name: part[name][:, :columns] for name in ("input_ids", "attention_mask", "labels")})
    return torch.cat(groups), parts


def measured_units(batch: Batch, share: float) -> torch.Tensor:
    """Return the measured action units of a random share of the conversations about action units.

    Conversations about action units are those with several answers. Conversations that are not chosen keep the model's
    estimates, because the model has only estimates after training.

    Args:
        batch: A batch of conversations.
        share: The share, in [0, 1].

    Returns:
        (B, 24) intensities; NaN for the other conversations, and for units that were not measured.
    """
    rows, columns, _ = answer_positions(batch["labels"])
    numbers = answer_numbers(rows, columns)
    units = batch["action_units"]
    several = torch.zeros(len(units), dtype=torch.bool, device=units.device)
    several[rows[1:][(rows[1:] == rows[:-1]) & (numbers[1:] != numbers[:-1])]] = True
    chosen = several & (torch.rand(len(units), device=units.device) < share)
    return units.masked_fill(~chosen.unsqueeze(1), torch.nan)


def mixed_up(batch: Batch, alpha: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, float]:
    """Blend each face of a batch with a random face of the same batch (mixup, Zhang et al. 2018).

    Args:
        batch: A batch of faces.
        alpha: Parameter of Beta(alpha, alpha), from which the share of the first face is drawn once per batch; 0 for
            no blending.

    Returns:
        Images (B, 3, H, W); action units (B, 24), NaN unless they were measured in both faces; the indices
        (B,) of the second faces, None without blending; and the share of the first face.
    """
    pixels, units = batch["pixel_values"], batch["action_units"]
    if not alpha:
        return pixels, units, None, 1.0
    order = torch.randperm(len(pixels), device=pixels.device)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    return share * pixels + (1 - share) * pixels[order], share * units + (1 - share) * units[order], order, share
