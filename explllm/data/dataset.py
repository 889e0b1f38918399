"""Turn manifest rows into model inputs: images, augmentation, conversations and collation."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from explllm.conversation.encoder import ConversationEncoder, Encoded
from explllm.conversation.messages import (
    ACTIVE,
    DESCRIBE,
    LIST_UNITS,
    NOT_ACTIVE,
    REASON,
    Messages,
    caption,
    conversation,
    explanation,
    explanation_first,
    recognition,
    unit_state,
)
from explllm.core.action_units import FEAFA, NAMES
from explllm.core.errors import ImageError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.facs import facs_set
from explllm.core.manifest import Manifest
from explllm.data.mixture import SampleSpec
from explllm.explanations.grounding import STRONG
from explllm.explanations.instructions import INSTRUCTION_KINDS, write_instructions
from explllm.explanations.rule_writer import RuleWriter
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.faces.pixels import ImagePreset, ImageSource

EXPRESSION_NUMBER = {expression: number for number, expression in enumerate(Expression)}
"""Number of each expression in batches: its position in `Expression`, independent of the data set's own order."""

CotOrder = Literal["label_first", "cot_first", "random"]
"""Order of the two rounds of a CoT conversation in training; ``random`` chooses one of the two for each sample."""

Batch = dict[str, Any]
"""A dictionary with ``pixel_values`` (B, 3, H, W), ``expressions`` (B,) as numbers or -1, ``rows`` (B,), ``readable``
(B,) as bool, and ``unreadable``, a list of the images that could not be read, with the reason. In training, it also
contains ``input_ids``, ``attention_mask`` and ``labels`` (B, T), and ``action_units`` (B, 24), which are NaN for units
that were not measured."""


UNITS_PER_CONVERSATION = 6
"""Maximum number of questions in a ``unit_state`` conversation, one for each action unit; our choice."""

_QUESTIONS = {"description": DESCRIBE, "units": LIST_UNITS, "reasoning": REASON}


class Augmentation(Protocol):
    """Changes an image together with its action units and the text about it; see `explllm.data.transforms`."""

    def __call__(
        self, image: np.ndarray, action_units: list[float | None] | None, cot: str | None, rng_seed: int
    ) -> tuple[np.ndarray, list[float | None] | None, str | None]:
        """Return the augmented image, action units and text; equal seeds give equal results."""
        ...


@dataclass(frozen=True)
class Sample:
    """One conversation about one face, or one face to recognize."""

    pixel_values: torch.Tensor
    """float32 (3, H, W)."""
    row: int
    """Row of the table; -1 - row for a padding sample, which equalizes the ranks' shares and is not counted."""
    expression: int
    """Number of the expression; -1 if unknown, or in conversations of the kinds unit_state, units and reasoning."""
    encoded: Encoded | None = None
    """The conversation; None in evaluation."""
    action_units: tuple[float, ...] = (math.nan,) * len(FEAFA)
    """Measured intensities, NaN for units that were not measured; all NaN in evaluation."""
    unreadable: tuple[str, ...] = ()
    """Images that could not be read, each with the reason; in training, all that were tried for this sample."""
    readable: bool = True
    """Whether an image could be read. If not, `pixel_values` are zeros, or in training the values of a black image."""


class ReadImage(NamedTuple):
    """An image that could be read, and the number of its row."""

    row: int
    image: np.ndarray
    """uint8 (size, size, 3)."""


def face_source(manifest: Manifest, row: int, margin: float) -> ImageSource:
    """Return the face of a row, in the same way for training, evaluation and explanation.

    If the row has no box, its image is assumed to be a face crop, and the image path is returned. Otherwise, the face
    is cropped around the box with `margin`, as in `explllm.faces.crop.face_crop`.

    Raises:
        ImageError: If the row has a box, and the image cannot be read or the box does not fit the image.
        MissingPathError: If the row has a box, and the image does not exist.
    """
    path, box = manifest.image_path(row), manifest.box(row)
    return path if box is None else load_face(path, box, margin)


class ImageCache:
    """A cache of resized images by row, with a memory limit. Decoding a small face takes longer than training on it."""

    def __init__(
        self, manifest: Manifest, preset: ImagePreset, megabytes: float, margin: float = DEFAULT_MARGIN
    ) -> None:
        """Create an empty cache.

        Args:
            manifest: The table.
            preset: The model's preprocessing.
            megabytes: Memory limit in MB; 0 caches nothing.
            margin: Margin on each side of a box, as a share of its longer side.
        """
        self.manifest, self.preset, self.margin = manifest, preset, margin
        self.limit = int(megabytes * 1e6 / (preset.size**2 * 3))
        self.images: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images, because spawned data loader workers would receive copies of them."""
        return {**self.__dict__, "images": {}}

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the image of a row: uint8 (size, size, 3).

        Raises:
            ImageError: If the image cannot be read, or the row's box does not fit it.
            MissingPathError: If the image does not exist.
        """
        image = self.images.get(row)
        if image is None:
            image = self.preset.resize(face_source(self.manifest, row, self.margin))
            if len(self.images) < self.limit:
                self.images[row] = image
        return image

    def blank(self) -> np.ndarray:
        """Return a black image: uint8 (size, size, 3)."""
        return np.zeros((self.preset.size, self.preset.size, 3), np.uint8)


def rows_from(rows: Sequence[int], start: int) -> Iterator[int]:
    """Yield every row once, beginning at an index and wrapping around."""
    return (rows[(start + step) % len(rows)] for step in range(len(rows)))


def find_readable(
    images: ImageCache, rows: Iterable[int], max_unreadable: int = 0
) -> tuple[ReadImage | None, tuple[str, ...]]:
    """Return the first row whose image can be read.

    Args:
        images: The images by row.
        rows: The rows, in the order in which to try them.
        max_unreadable: Maximum number of unreadable images to skip; the search stops at the next one. An image of
            several faces counts once.

    Returns:
        The row and its image, or None if no image could be read; and the unreadable images, each with the reason.
    """
    unreadable: dict[str, None] = {}
    for row in rows:
        try:
            return ReadImage(row, images[row]), tuple(unreadable)
        except (ImageError, MissingPathError) as error:
            unreadable[f"{error.where}: {error.found}"] = None
        if len(unreadable) > max_unreadable:
            break
    return None, tuple(unreadable)


class TrainingDataset(Dataset[Sample]):
    """Training conversations, indexed by `SampleSpec`."""

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
        """Store the components that build conversations.

        Args:
            manifest: The table.
            images: Its images.
            conversations: Encodes messages.
            rows: The training rows; a row with an unreadable image is replaced with another of these rows. All rows by
                default.
            augment: Changes the image, its action units and its text together; none by default.
            max_unreadable: Maximum number of consecutive unreadable images to skip.
            cot_order: Order of the rounds of CoT conversations.
        """
        self.manifest, self.images, self.conversations, self.augment = manifest, images, conversations, augment
        self.rows = [int(row) for row in (range(len(manifest)) if rows is None else rows)]
        self.index_of = {row: index for index, row in enumerate(self.rows)}
        self.max_unreadable, self.cot_order = max_unreadable, cot_order
        names = ["expression", "cot", "caption", "cot_source", "fea_source", "facs_set"]
        names += [f"fea_{kind}" for kind in INSTRUCTION_KINDS]
        self.columns = {name: _column(manifest.frame, name) for name in names}
        self.facs = list(manifest.frame.get("facs", [None] * len(manifest)))
        self.writer = RuleWriter()

    def __len__(self) -> int:
        """Return the number of training rows."""
        return len(self.rows)

    def __getitem__(self, spec: SampleSpec) -> Sample:  # pyrefly: ignore[bad-override-param-name]
        """Return a conversation.

        A row with an unreadable image is recorded in the sample and replaced with the next row that allows the same
        kind of conversation. If more than `max_unreadable` consecutive images are unreadable, the sample has no face
        and the training step raises the error, because an error raised here, in a worker process, would lose its type.
        """
        rows = (row for row in rows_from(self.rows, self.index_of[spec.row]) if self._text(row, spec) is not None)
        face, unreadable = find_readable(self.images, rows, self.max_unreadable)
        if face is not None:
            return self._sample(face.row, spec, face.image, unreadable)
        return replace(self._sample(spec.row, spec, self.images.blank(), unreadable), readable=False)

    def _text(self, row: int, spec: SampleSpec) -> str | None:
        """Return the text of a row; empty if it must be generated, None if the row cannot be used."""
        if spec.kind == "unit_state":
            return "" if self._unit_states(row, self.manifest.intensities_at(row)) else None
        if spec.kind != "caption" and self.columns["expression"][row] is None:
            return None
        if spec.kind in INSTRUCTION_KINDS:
            text = self.columns[f"fea_{spec.kind}"][row]
            return "" if text is None and self.manifest.intensities_at(row) is not None else text
        return self.columns["expression" if spec.kind == "fer" else spec.kind][row]

    def _is_rewritten(self, row: int, spec: SampleSpec) -> bool:
        """Return whether a text must be generated from the row's action units, or was written from them by rules.

        Such texts are regenerated for every sample, with different wordings. If each face had one fixed random wording,
        the model could only memorize it, which would reduce the accuracy on unseen faces.
        """
        if spec.kind in INSTRUCTION_KINDS:
            source, text = self.columns["fea_source"][row], self.columns[f"fea_{spec.kind}"][row]
            return text is None or source == self.writer.name
        return spec.kind == "cot" and self.columns["cot_source"][row] == self.writer.name

    def _sample(self, row: int, spec: SampleSpec, image: np.ndarray, unreadable: tuple[str, ...]) -> Sample:
        text = self._text(row, spec)
        label = self.columns["expression"][row]
        units = self.manifest.intensities_at(row)
        if self.augment is not None:
            # A flip swaps left and right in texts, not in labels.
            image, units, changed = self.augment(image, units, None if spec.kind == "fer" else text, spec.seed)
            text = text if spec.kind == "fer" else changed
        if units is not None and self._is_rewritten(row, spec):
            if spec.kind in INSTRUCTION_KINDS:
                text = write_instructions(self.writer, units, Expression(str(label)), spec.seed)[spec.kind]
            else:
                text = self.writer.write(units, Expression(str(label)), seed=spec.seed).text
        encoded = self.conversations.encode(self._messages(row, spec, label, text, units))
        # Only conversations with an answer that begins with the label count toward the accuracy on training batches.
        labeled = label is not None and spec.kind not in ("unit_state", "units", "reasoning")
        number = EXPRESSION_NUMBER[Expression(str(label))] if labeled else -1
        measured = tuple(math.nan if value is None else value for value in units or (None,) * len(FEAFA))
        return Sample(self.images.preset.normalize(image), row, number, encoded, measured, unreadable)

    def _unit_states(self, row: int, units: Sequence[float | None] | None) -> dict[str, bool]:
        """Return whether each action unit of a row is active, by FACS labels or, without these, by intensities."""
        facs, name = self.facs[row], self.columns["facs_set"][row]
        if facs is not None and name is not None:
            return {unit.label: bool(value) for unit, value in zip(facs_set(name), facs, strict=True)}
        measured = zip(NAMES, units or [None] * len(NAMES), strict=True)
        return {unit: value >= STRONG for unit, value in measured if value is not None}

    def _messages(
        self, row: int, spec: SampleSpec, label: Any, text: str | None, units: Sequence[float | None] | None
    ) -> Messages:
        if spec.kind == "fer":
            return recognition(label)
        if spec.kind == "caption":
            return caption(text)
        if spec.kind == "unit_state":
            return unit_states(self._unit_states(row, units), spec.seed)
        if spec.kind in _QUESTIONS:
            return conversation([(_QUESTIONS[spec.kind], text)])
        if self._cot_first(spec):
            return explanation_first(str(text), label)
        return explanation(str(label), text)

    def _cot_first(self, spec: SampleSpec) -> bool:
        return self.cot_order == "cot_first" or (self.cot_order == "random" and spec.seed % 2 == 1)


def unit_states(states: Mapping[str, bool], seed: int) -> Messages:
    """Build a conversation about the state of some action units, in random order.

    With several questions per conversation, there are more answers to learn from at the cost of one image.

    Args:
        states: Whether each unit is active, by name.
        seed: Selects the units.

    Returns:
        The messages: up to `UNITS_PER_CONVERSATION` rounds.
    """
    chosen = np.random.default_rng(seed).permutation(list(states))[:UNITS_PER_CONVERSATION]
    return conversation([(unit_state(str(unit)), ACTIVE if states[str(unit)] else NOT_ACTIVE) for unit in chosen])


class EvaluationDataset(Dataset[Sample]):
    """Faces to recognize, in the table's order."""

    def __init__(self, manifest: Manifest, images: ImageCache, rows: Sequence[int]) -> None:
        """Store the rows that this process evaluates.

        Args:
            manifest: The table.
            images: Its images.
            rows: The rows. Padding rows, which give all ranks the same number of steps, are passed as -1 - row. They
                keep this negative number in batches and are not counted.
        """
        self.manifest, self.images, self.rows = manifest, images, list(rows)
        self.expressions = _column(manifest.frame, "expression")

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return a face; an unreadable image becomes zeros and is named in `unreadable`."""
        number = self.rows[index]
        row = number if number >= 0 else -1 - number
        label = self.expressions[row]
        expression = -1 if label is None else EXPRESSION_NUMBER[Expression(label)]
        preset = self.images.preset
        face, unreadable = find_readable(self.images, [row])
        if face is None:
            zeros = torch.zeros(3, preset.size, preset.size)
            return Sample(zeros, number, expression, unreadable=unreadable, readable=False)
        return Sample(preset.normalize(face.image), number, expression)


@dataclass(frozen=True)
class Collator:
    """Collates samples into a batch, padded on the right.

    This is a class because a local function could not be pickled.
    """

    conversations: ConversationEncoder
    """Pads token ids."""

    def __call__(self, samples: list[Sample]) -> Batch:
        """Return the samples as one `Batch`."""
        batch: Batch = {
            "pixel_values": torch.stack([sample.pixel_values for sample in samples]),
            "expressions": torch.tensor([sample.expression for sample in samples]),
            "rows": torch.tensor([sample.row for sample in samples]),
            "readable": torch.tensor([sample.readable for sample in samples]),
            "unreadable": [name for sample in samples for name in sample.unreadable],
        }
        encoded = [sample.encoded for sample in samples if sample.encoded is not None]
        if encoded:
            tokens = self.conversations.batch(encoded, side="right")
            batch |= {name: getattr(tokens, name) for name in ("input_ids", "attention_mask", "labels")}
            batch["action_units"] = torch.tensor([sample.action_units for sample in samples])
        return batch


def _column(frame: pd.DataFrame, name: str) -> list[str | None]:
    if name not in frame:
        return [None] * len(frame)
    return [None if pd.isna(value) else str(value) for value in frame[name]]
