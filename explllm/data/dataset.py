"""Rows of a manifest as model inputs: image, augmentation, conversation, collation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from explllm.conversation.encoder import ConversationEncoder, Encoded
from explllm.conversation.messages import Messages, caption, explanation, explanation_first, recognition
from explllm.core.errors import ImageError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.mixture import SampleSpec
from explllm.explanations.rule_writer import RuleWriter
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.faces.pixels import ImagePreset, ImageSource

EXPRESSION_NUMBER = {expression: number for number, expression in enumerate(Expression)}
"""An expression's number in batches: its place in `Expression`, whatever the data set's own order."""

CotOrder = Literal["label_first", "cot_first", "random"]
"""Order of the two rounds of a CoT conversation in training; ``random``: one of the two by chance at each draw."""

Batch = dict[str, Any]
"""``pixel_values`` (B, 3, H, W); ``expressions`` (B,) numbers or -1; ``rows`` (B,); ``readable`` (B,) bool;
``unreadable`` images with the reason; in training also ``input_ids``, ``attention_mask``, ``labels`` (B, T)."""


class Augmentation(Protocol):
    """What changes an image, its action units and its chain of thought together; see `explllm.data.transforms`."""

    def __call__(
        self, image: np.ndarray, action_units: list[float | None] | None, cot: str | None, rng_seed: int
    ) -> tuple[np.ndarray, list[float | None] | None, str | None]:
        """Return the three, changed; equal seeds give equal results."""
        ...


@dataclass(frozen=True)
class Sample:
    """One conversation about one face, or one face to be recognized."""

    pixel_values: torch.Tensor
    """float32 (3, H, W)."""
    row: int
    """Row of the table."""
    expression: int
    """Number of the expression, -1 where unknown."""
    encoded: Encoded | None
    """The conversation; None in evaluation."""
    unreadable: tuple[str, ...] = ()
    """Images, with the reason, that could not be read: in training those tried before this one was found."""
    readable: bool = True
    """Whether `pixel_values` are a face; zeros otherwise."""


def face_source(manifest: Manifest, row: int, margin: float) -> ImageSource:
    """Return the face of a row, the same for training, testing and explaining.

    Args:
        manifest: The table.
        row: The row.
        margin: Around a box, as for `explllm.faces.crop.face_crop`.

    Returns:
        The image's path, where the row has no box: the image is a face already. Else the face, cut out by its box.

    Raises:
        ImageError: If the image cannot be read or the box does not fit it.
        MissingPathError: If the image does not exist.
    """
    path, box = manifest.image_path(row), manifest.box(row)
    return path if box is None else load_face(path, box, margin)


class ImageCache:
    """Resized images by row, up to a limit of memory; decoding a small face costs more than learning from it."""

    def __init__(
        self, manifest: Manifest, preset: ImagePreset, megabytes: float, margin: float = DEFAULT_MARGIN
    ) -> None:
        """Keep the table, the limit in MB (0: keep nothing) and the margin around boxes."""
        self.manifest, self.preset, self.margin = manifest, preset, margin
        self.limit = int(megabytes * 1e6 / (preset.size**2 * 3))
        self.images: dict[int, np.ndarray] = {}

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the image of a row: uint8 (size, size, 3).

        Raises:
            ImageError: If it cannot be read, or the row's box does not fit it.
            MissingPathError: If it does not exist.
        """
        image = self.images.get(row)
        if image is None:
            image = self.preset.resize(face_source(self.manifest, row, self.margin))
            if len(self.images) < self.limit:
                self.images[row] = image
        return image


def rows_from(rows: Sequence[int], place: int) -> Iterator[int]:
    """Give every row once, from a place on and around to the one before it."""
    return (rows[(place + step) % len(rows)] for step in range(len(rows)))


def find_readable(
    images: ImageCache, rows: Iterable[int], most: int = 0
) -> tuple[tuple[int, np.ndarray] | None, tuple[str, ...]]:
    """Look for a row whose image can be read.

    Args:
        images: The images by row.
        rows: The rows, in the order in which they are tried.
        most: Unreadable images after which the search goes on; one more ends it.

    Returns:
        The first row that can be read and its image, None if there is none; the images tried in vain, with the reason.
    """
    unreadable: list[str] = []
    for row in rows:
        try:
            return (row, images[row]), tuple(unreadable)
        except (ImageError, MissingPathError) as error:
            unreadable.append(f"{error.where}: {error.found}")
        if len(unreadable) > most:
            break
    return None, tuple(unreadable)


class TrainingDataset(Dataset[Sample]):
    """Conversations by `SampleSpec`."""

    def __init__(
        self,
        manifest: Manifest,
        images: ImageCache,
        conversations: ConversationEncoder,
        rows: Sequence[int] | None = None,
        augment: Augmentation | None = None,
        max_unreadable: int = 0,
        cot_order: CotOrder = "label_first",
    ) -> None:
        """Keep what a conversation is made of.

        Args:
            manifest: The table.
            images: Its images.
            conversations: Encodes messages.
            rows: The rows to learn from; only they take the place of an unreadable one. By default all.
            augment: Changes image and text together; none by default.
            max_unreadable: Unreadable images in a row after which the search for a readable one ends.
            cot_order: Order of the rounds of CoT conversations.
        """
        self.manifest, self.images, self.conversations, self.augment = manifest, images, conversations, augment
        self.rows = [int(row) for row in (range(len(manifest)) if rows is None else rows)]
        self.places = {row: place for place, row in enumerate(self.rows)}
        self.max_unreadable, self.cot_order = max_unreadable, cot_order
        names = ("expression", "cot", "caption", "cot_source")
        self.columns = {name: _column(manifest.frame, name) for name in names}
        self.writer = RuleWriter()

    def __len__(self) -> int:
        """Return the number of rows to learn from."""
        return len(self.rows)

    def __getitem__(self, draw: SampleSpec) -> Sample:
        """Make a conversation; a row whose image cannot be read is named in the sample and replaced by the next row.

        Where more rows than `max_unreadable` are tried in vain, the sample has no face: whoever counts stops the run.
        It is not an error here, as errors lose their type on the way from a worker process.
        """
        rows = (row for row in rows_from(self.rows, self.places[draw.row]) if self._text(row, draw) is not None)
        found, unreadable = find_readable(self.images, rows, self.max_unreadable)
        if found is not None:
            row, image = found
            return self._sample(row, draw, image, unreadable)
        size = self.images.preset.size
        blank = np.zeros((size, size, 3), np.uint8)
        return replace(self._sample(draw.row, draw, blank, unreadable), readable=False)

    def _text(self, row: int, draw: SampleSpec) -> str | None:
        if draw.kind != "caption" and self.columns["expression"][row] is None:
            return None
        return self.columns["expression" if draw.kind == "fer" else draw.kind][row]

    def _rewritable(self, row: int) -> list[float | None] | None:
        """Return the action units of a row whose text the rules wrote: they write it anew at each draw.

        A unit that was not measured is None: nothing is said of it.

        The rules choose among wordings by chance. One fixed choice for each face could only be learned by heart, at the
        price of recognizing faces that were not seen.
        """
        if self.columns["cot_source"][row] != self.writer.name:
            return None
        return self.manifest.intensities_at(row)

    def _sample(self, row: int, draw: SampleSpec, image: np.ndarray, unreadable: tuple[str, ...]) -> Sample:
        text = self._text(row, draw)
        label = self.columns["expression"][row]
        units = self._rewritable(row) if draw.kind == "cot" else None
        if self.augment is not None:
            # The label has no sides; chains of thought and captions have.
            image, units, changed = self.augment(image, units, None if draw.kind == "fer" else text, draw.seed)
            text = text if draw.kind == "fer" else changed
        if units is not None:
            text = self.writer.write(units, Expression(str(label)), seed=draw.seed).text
        messages: Messages = {
            "fer": lambda: recognition(label),
            "cot": lambda: self._explanation(str(label), str(text), draw),
            "caption": lambda: caption(text),
        }[draw.kind]()
        number = -1 if label is None else EXPRESSION_NUMBER[Expression(label)]
        return Sample(self.images.preset.normalize(image), row, number, self.conversations.encode(messages), unreadable)

    def _explanation(self, label: str, cot: str, draw: SampleSpec) -> Messages:
        cot_first = self.cot_order == "cot_first" or (self.cot_order == "random" and draw.seed % 2 == 1)
        return explanation_first(cot, label) if cot_first else explanation(label, cot)


class EvaluationDataset(Dataset[Sample]):
    """Faces to be recognized, in the table's order."""

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
        found, unreadable = find_readable(self.images, [place])
        if found is None:
            blank = torch.zeros(3, preset.size, preset.size)
            return Sample(blank, row, number, None, unreadable, readable=False)
        return Sample(preset.normalize(found[1]), row, number, None)


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
            "readable": torch.tensor([sample.readable for sample in samples]),
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
