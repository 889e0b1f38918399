"""Rows of a manifest as model inputs: image, augmentation, conversation, collation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from explllm.conversation.encoder import ConversationEncoder, Encoded
from explllm.conversation.messages import Messages, caption, explanation, recognition
from explllm.core.errors import ImageError, InputError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.mixture import Draw
from explllm.faces.pixels import ImagePreset

EXPRESSION_NUMBER = {expression: number for number, expression in enumerate(Expression)}
"""An expression's number in batches: its place in `Expression`, whatever the data set's own order."""

Batch = dict[str, Any]
"""``pixel_values`` (B, 3, H, W); ``expressions`` (B,) numbers or -1; ``rows`` (B,); ``unreadable`` names; in training
also ``input_ids``, ``attention_mask``, ``labels`` (B, T)."""


class Augmentation(Protocol):
    """What changes an image, its action units and its chain of thought together; see `explllm.data.transforms`."""

    def __call__(
        self, image: np.ndarray, action_units: list[float] | None, cot: str | None, rng_seed: int
    ) -> tuple[np.ndarray, list[float] | None, str | None]:
        """Return the three, changed; equal seeds give equal results."""
        ...


@dataclass(frozen=True)
class Sample:
    """One conversation about one face, or one face to be recognised."""

    pixel_values: torch.Tensor
    """float32 (3, H, W)."""
    row: int
    """Row of the table."""
    expression: int
    """Number of the expression, -1 where unknown."""
    encoded: Encoded | None
    """The conversation; None in evaluation."""
    unreadable: tuple[str, ...] = ()
    """Images, with the reason, that could not be read and were replaced by the next row."""


class ImageCache:
    """Resized images by row, up to a limit of memory; decoding a small face costs more than learning from it."""

    def __init__(self, manifest: Manifest, preset: ImagePreset, megabytes: float) -> None:
        """Keep the table and the limit in MB (0: keep nothing)."""
        self.manifest, self.preset = manifest, preset
        self.limit = int(megabytes * 1e6 / (preset.size**2 * 3))
        self.images: dict[int, np.ndarray] = {}

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the image of a row: uint8 (size, size, 3).

        Raises:
            ImageError: If it cannot be read.
            MissingPathError: If it does not exist.
        """
        image = self.images.get(row)
        if image is None:
            image = self.preset.resize(self.manifest.image_path(row))
            if len(self.images) < self.limit:
                self.images[row] = image
        return image


class TrainingDataset(Dataset[Sample]):
    """Conversations by `Draw`."""

    def __init__(
        self,
        manifest: Manifest,
        images: ImageCache,
        conversations: ConversationEncoder,
        augment: Augmentation | None = None,
    ) -> None:
        """Keep what a conversation is made of.

        Args:
            manifest: The table.
            images: Its images.
            conversations: Encodes messages.
            augment: Changes image and text together; none by default.
        """
        self.manifest, self.images, self.conversations, self.augment = manifest, images, conversations, augment
        self.columns = {name: _column(manifest.frame, name) for name in ("expression", "cot", "caption")}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.manifest)

    def __getitem__(self, draw: Draw) -> Sample:
        """Make a conversation; a row whose image cannot be read is replaced by the next, and named in the sample."""
        unreadable: list[str] = []
        row = draw.row
        for _ in range(len(self)):
            if self._text(row, draw) is not None:
                try:
                    return self._sample(row, draw, tuple(unreadable))
                except (ImageError, MissingPathError) as error:
                    unreadable.append(str(error))
            row = (row + 1) % len(self)
        raise ImageError("no image can be read", where=self.manifest.root, remedy="Check the manifest's root.")

    def _text(self, row: int, draw: Draw) -> str | None:
        if draw.kind != "caption" and self.columns["expression"][row] is None:
            return None
        return self.columns["expression" if draw.kind == "fer" else draw.kind][row]

    def _sample(self, row: int, draw: Draw, unreadable: tuple[str, ...]) -> Sample:
        image, text = self.images[row], self._text(row, draw)
        label = self.columns["expression"][row]
        if self.augment is not None:
            # The label has no sides; chains of thought and captions have.
            image, _, changed = self.augment(image, None, None if draw.kind == "fer" else text, draw.seed)
            text = text if draw.kind == "fer" else changed
        messages: Messages = {
            "fer": lambda: recognition(label),
            "cot": lambda: explanation(str(label), text),
            "caption": lambda: caption(text),
        }[draw.kind]()
        number = -1 if label is None else EXPRESSION_NUMBER[Expression(label)]
        return Sample(self.images.preset.normalize(image), row, number, self.conversations.encode(messages), unreadable)


class EvaluationDataset(Dataset[Sample]):
    """Faces to be recognised, in the table's order."""

    def __init__(self, manifest: Manifest, images: ImageCache, rows: Sequence[int]) -> None:
        """Keep the table and the rows that this process evaluates.

        A row given as -1 - row is evaluated too but keeps its negative number: it fills up a rank's share, so that all
        ranks make equally many steps, and counts nowhere.
        """
        self.manifest, self.images, self.rows = manifest, images, list(rows)
        self.expressions = _column(manifest.frame, "expression")

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return a face; one that cannot be read comes as zeros with its name in `unreadable`, to be counted."""
        row = self.rows[index]
        place = row if row >= 0 else -1 - row
        label = self.expressions[place]
        number = -1 if label is None else EXPRESSION_NUMBER[Expression(label)]
        preset = self.images.preset
        try:
            return Sample(preset.normalize(self.images[place]), row, number, None)
        except InputError as error:
            return Sample(torch.zeros(3, preset.size, preset.size), row, number, None, (str(error),))


def collator(conversations: ConversationEncoder) -> Callable[[list[Sample]], Batch]:
    """Return the function that makes a batch of samples, padded on the right.

    Args:
        conversations: Pads tokens.

    Returns:
        The function, from samples to `Batch`.
    """

    def collate(samples: list[Sample]) -> Batch:
        batch: Batch = {
            "pixel_values": torch.stack([sample.pixel_values for sample in samples]),
            "expressions": torch.tensor([sample.expression for sample in samples]),
            "rows": torch.tensor([sample.row for sample in samples]),
            "readable": torch.tensor([not sample.unreadable for sample in samples]),
            "unreadable": [name for sample in samples for name in sample.unreadable],
        }
        encoded = [sample.encoded for sample in samples if sample.encoded is not None]
        if encoded:
            tokens = conversations.batch(encoded, side="right")
            batch |= {
                "input_ids": tokens.input_ids,
                "attention_mask": tokens.attention_mask,
                "labels": tokens.labels,
            }
        return batch

    return collate


def _column(frame: pd.DataFrame, name: str) -> list[str | None]:
    if name not in frame:
        return [None] * len(frame)
    return [None if pd.isna(value) else str(value) for value in frame[name]]
