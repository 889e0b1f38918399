"""A face with a model's explanation, prepared for rendering."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from explllm.core.action_units import FACS_CODES, INTENSITY_WORDS, NAMES, intensity_word, with_facs
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.review import Review, review_explanation
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.report.regions import DRAWN_FACE, Region, named_regions

if TYPE_CHECKING:
    from explllm.metrics.exp_cot_score import Judgment

_ABSENT_BELOW = INTENSITY_WORDS[0][0]
_MAX_BARS = 10


class Recognized(Protocol):
    """A recognized expression: the part of `explllm.models.generation.Recognition` that is rendered."""

    @property
    def expression(self) -> Expression:
        """The most likely class."""
        ...

    @property
    def probabilities(self) -> Mapping[Expression, float]:
        """Probability of each class."""
        ...

    @property
    def confidence(self) -> float:
        """Probability of `expression`."""
        ...


def most_likely(recognition: Recognized, number: int = 3) -> list[tuple[Expression, float]]:
    """Return the most likely expressions with their probabilities, in descending order."""
    return sorted(recognition.probabilities.items(), key=lambda pair: -pair[1])[:number]


def strongest_units(action_units: Sequence[float | None]) -> list[tuple[str, float]]:
    """Return names and intensities of the strongest active units, at most ten, in descending order.

    Args:
        action_units: 24 intensities in [0, 1], in FEAFA's order; None for a unit that was not measured.
    """
    active = [
        (name, value)
        for name, value in zip(NAMES, action_units, strict=True)
        if value is not None and value >= _ABSENT_BELOW
    ]
    return sorted(active, key=lambda unit: -unit[1])[:_MAX_BARS]


@dataclass(frozen=True)
class ActionUnitBar:
    """One active action unit."""

    name: str
    facs: str
    """The FACS code, such as ``AU12``."""
    intensity: float
    """In [0, 1]."""
    word: str
    """The intensity as a word."""


@dataclass(frozen=True)
class ExplainedFace:
    """A face with a model's recognition and explanation."""

    image: Path
    """The image file."""
    expression: Expression
    """The true label."""
    recognition: Recognized
    """The model's recognition."""
    cot: ChainOfThought
    """The model's chain of thought."""
    action_units: Sequence[float | None] | None = None
    """24 intensities in FEAFA's order, from the data, not from the model; None for a unit that was not measured. The
    field is None if no intensities are known."""
    action_units_source: str | None = None
    """Source of the intensities: the name of an estimator, or ``drawn``."""
    box: Sequence[float] | None = None
    """Face box in the image: x, y, width, height in pixels; None if the image is a face crop."""
    margin: float = DEFAULT_MARGIN
    """Margin that was added around the box for the model; see `explllm.faces.crop.face_crop`."""
    scores: str = ""
    """A judge's scores of the explanation, as a sentence; empty if there are none."""

    @property
    def data_url(self) -> str:
        """The face as a JPEG data URL of at most 224 x 224 pixels."""
        return self._thumbnail[0]

    @cached_property
    def _thumbnail(self) -> tuple[str, tuple[int, int]]:
        face = load_face(self.image, self.box, self.margin, max_size=224)
        return jpeg_url(face), face.size

    @property
    def regions(self) -> list[Region]:
        """The regions that the explanation names; empty if the image does not look like a face crop."""
        width, height = self._thumbnail[1]
        if max(width, height) > 1.3 * min(width, height):
            return []
        # The positions refer to the square around the box, and the image also contains the margin around this square.
        start = self.margin / (1 + 2 * self.margin) if self.box is not None else 0.0
        square = (start, start, 1 - 2 * start, 1 - 2 * start)
        if self.box is None and self.action_units_source == "drawn":
            square = DRAWN_FACE
        return named_regions(self.review.claims, square)

    @property
    def correct(self) -> bool:
        """Whether the model predicted the true label."""
        return self.recognition.expression == self.expression

    @property
    def likely(self) -> list[tuple[Expression, float]]:
        """The three most likely expressions with their probabilities."""
        return most_likely(self.recognition)

    @property
    def bars(self) -> list[ActionUnitBar]:
        """The strongest active action units, at most ten, in descending order."""
        units = strongest_units(self.action_units or [0.0] * len(NAMES))
        return [
            ActionUnitBar(name, FACS_CODES[name], intensity, intensity_word(intensity)) for name, intensity in units
        ]

    @property
    def unmeasured(self) -> list[str]:
        """Names and FACS codes of the action units that were not measured."""
        return [
            with_facs(name)
            for name, value in zip(NAMES, self.action_units or [0.0] * len(NAMES), strict=True)
            if value is None
        ]

    @cached_property
    def review(self) -> Review:
        """The explanation's claims, compared with `action_units`, and its contradictions."""
        return review_explanation(self.cot, self.recognition.expression, self.action_units)

    @property
    def alt_text(self) -> str:
        """A description of the picture for readers who cannot see it."""
        units = ", ".join(f"{bar.name.lower()} {bar.word}" for bar in self.bars[:4])
        text = f"Face labeled {self.expression}" + (f"; strongest action units: {units}" if units else "")
        regions = ", ".join(region.name for region in self.regions)
        return text + (f"; outlined regions: {regions}" if regions else "")

    def with_scores(self, judgment: "Judgment", judge: str) -> "ExplainedFace":
        """Return the face with a judge's scores of its explanation; `judge` is the judge's name."""
        parts = f"key observations {judgment.key_observations:.1f}, interpretation {judgment.interpretation:.1f}"
        scores = f"Exp-CoT Score {judgment.score:.2f} ({parts}, conclusion {judgment.conclusion:.1f}); judge: {judge}"
        return replace(self, scores=scores)


def thumbnail_url(path: Path, size: int, box: Sequence[float] | None = None, margin: float = DEFAULT_MARGIN) -> str:
    """Return a face as a JPEG data URL.

    Args:
        path: The image file.
        size: Maximum width and height, in pixels.
        box: Face box in the image; None if the image is a face crop.
        margin: Margin around the box, as for `explllm.faces.crop.face_crop`.

    Raises:
        ImageError: If the image cannot be read, or the box lies outside the image or is far larger than it.
        MissingPathError: If the file does not exist.
    """
    return jpeg_url(load_face(path, box, margin, max_size=size))


def jpeg_url(image: Image.Image) -> str:
    """Return an image as a JPEG data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
