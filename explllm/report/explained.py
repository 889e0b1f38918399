"""A face with what the model says of it, and which faces to show."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from explllm.core.action_units import INTENSITY_WORDS, NAMES, intensity_word
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.crop import DEFAULT_MARGIN, load_face

if TYPE_CHECKING:
    from explllm.models.generation import Recognition

_ABSENT_BELOW = INTENSITY_WORDS[0][0]


@dataclass(frozen=True)
class ActionUnitBar:
    """One action unit that is seen."""

    name: str
    intensity: float
    """In [0, 1]."""
    word: str
    """The word for the intensity."""


@dataclass(frozen=True)
class ExplainedFace:
    """A face with what the model says of it."""

    image: Path
    """The image's file."""
    expression: Expression
    """The true label."""
    recognition: "Recognition"
    """What the model recognized."""
    cot: ChainOfThought
    """What the model wrote."""
    action_units: Sequence[float | None] | None = None
    """24 intensities in FEAFA's order, from the data and not from the model, None for a unit that was not measured;
    None where none are known."""
    action_units_source: str | None = None
    """Where they come from: a model's name, or drawn."""
    box: Sequence[float] | None = None
    """Where the face is in the image: x, y, width, height in pixels; None if the image is a face."""
    margin: float = DEFAULT_MARGIN
    """Around the box, as for `explllm.faces.crop.face_crop`: that with which the model saw the face."""
    scores: str = ""
    """How a judge scores the words, and which; empty where none has."""

    @property
    def data_url(self) -> str:
        """The face, at most 224 pixels wide and high, as a JPEG inside a URL."""
        return thumbnail_url(self.image, 224, self.box, self.margin)

    @property
    def right(self) -> bool:
        """Whether the model found the true label."""
        return self.recognition.expression == self.expression

    @property
    def likely(self) -> list[tuple[Expression, float]]:
        """The three most likely expressions with their probabilities."""
        return sorted(self.recognition.probabilities.items(), key=lambda pair: -pair[1])[:3]

    @property
    def bars(self) -> list[ActionUnitBar]:
        """The action units that are not absent, the strongest first, ten at most."""
        seen = [
            ActionUnitBar(name, intensity, intensity_word(intensity))
            for name, intensity in zip(NAMES, self.action_units or [0.0] * len(NAMES), strict=True)
            if intensity is not None and intensity >= _ABSENT_BELOW
        ]
        return sorted(seen, key=lambda bar: -bar.intensity)[:10]

    @property
    def unmeasured(self) -> list[str]:
        """Names of the action units that were not measured."""
        return [
            name for name, value in zip(NAMES, self.action_units or [0.0] * len(NAMES), strict=True) if value is None
        ]


def thumbnail_url(path: Path, size: int, box: Sequence[float] | None = None, margin: float = DEFAULT_MARGIN) -> str:
    """Return a face inside a URL.

    Args:
        path: The image's file.
        size: Greatest width and height, in pixels.
        box: Where the face is in the image; None if the image is a face.
        margin: Around the box, as for `explllm.faces.crop.face_crop`.

    Returns:
        A ``data:`` URL that holds a JPEG.

    Raises:
        ImageError: If the image cannot be read or the box does not fit it.
        MissingPathError: If it does not exist.
    """
    image = load_face(path, box, margin, max_size=size)
    held = io.BytesIO()
    image.save(held, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def best_and_worst_faces(table: pd.DataFrame, number: int) -> list[object]:
    """Choose faces to show: those recognized most surely, and those that the model missed by the most.

    They are of as many different true expressions as there are faces to choose; that comes before best and worst.

    Args:
        table: Columns ``expression``, ``right`` (bool) and ``truth_probability`` (that of the true label).
        number: Faces to choose; of an odd number the odd one is a good one.

    Returns:
        Places in the table's index: the right ones, best first, then the wrong ones, worst first.
    """
    ordered = table.sort_values("truth_probability", kind="stable", ascending=False)
    best, worst = ordered[ordered["right"]], ordered[~ordered["right"]].iloc[::-1]
    chosen: list[tuple[bool, object]] = []
    used: set[str] = set()
    for turn in range(number):
        pools = [(True, best), (False, worst)] if turn % 2 == 0 else [(False, worst), (True, best)]
        fresh = [(right, pool[~pool["expression"].isin(used)]) for right, pool in pools]
        found = next(((right, pool) for right, pool in [*fresh, *pools] if len(pool)), None)
        if found is None:
            break
        right, pool = found
        place = pool.index[0]
        used.add(pool["expression"].iloc[0])
        chosen.append((right, place))
        best, worst = (rest.drop(place, errors="ignore") for rest in (best, worst))
    return [place for wanted in (True, False) for right, place in chosen if right == wanted]
