"""A photograph with its explained faces in one picture: boxes, labels, action unit bars, and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw, ImageFont, ImageOps

from explllm.core.action_units import with_facs
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.html import bars_html
from explllm.explanations.review import ClaimStatus, Review, review_explanation
from explllm.faces.boxes import Box
from explllm.faces.estimators import Intensities, unmeasured_units
from explllm.report.explained import Recognized, jpeg_url, most_likely, strongest_units

_WIDTH, _MARGIN, _FACE, _BARS = 1200, 24, 180, 385
"""Widths in pixels: the picture, the margin around each part, a face's thumbnail, the column of bars."""

_INK, _SOFT, _PAPER, _TRACK = (28, 30, 36), (104, 110, 122), (255, 255, 255), (226, 229, 235)
_AGREES, _CONTRADICTS = (24, 110, 72), (176, 48, 32)
_COLORS = ((31, 97, 196), (196, 72, 24), (24, 128, 84), (144, 58, 170), (150, 112, 0), (0, 124, 148))


@dataclass(frozen=True)
class PicturedFace:
    """A face of a photograph with the model's recognition and, if requested, its explanation."""

    image: Image.Image
    """The face crop that the model saw, before resizing."""
    box: Box | None
    """Face box in the photograph; None if the photograph is a face crop."""
    recognition: Recognized
    """The model's recognition."""
    cot: ChainOfThought | None = None
    """The model's chain of thought."""
    action_units: Intensities | None = None
    """Measured intensities; None if no estimator was used or it found no face."""
    action_units_source: str | None = None
    """The estimator's name."""
    warnings: Sequence[str] = ()
    """Warnings about the picture: for example, that it does not look like a face crop."""

    @cached_property
    def review(self) -> Review | None:
        """The explanation's claims, compared with `action_units`, and its contradictions; None without a text."""
        if self.cot is None:
            return None
        return review_explanation(self.cot, self.recognition.expression, self.action_units)

    @property
    def all_warnings(self) -> list[str]:
        """The warnings about the picture, then those about the explanation."""
        return [*self.warnings, *(self.review.warnings if self.review else ())]

    def _repr_html_(self) -> str:
        """Return the face, probabilities and explanation as HTML for notebooks."""
        thumbnail = self.image.convert("RGB")
        thumbnail.thumbnail((_FACE, _FACE))
        shares = ((str(label), share) for label, share in most_likely(self.recognition, len(Expression)))
        name = f"Face, recognized as {self.recognition.expression}"
        face = f'<img src="{jpeg_url(thumbnail)}" alt="{name}" style="max-width:{_FACE}px">'
        text = "" if self.cot is None else self.cot._repr_html_()
        return (
            '<div style="display:flex;gap:1em;flex-wrap:wrap;align-items:flex-start">'
            f'{face}<div>{bars_html(shares)}</div><div style="flex:1;min-width:16em">{text}</div></div>'
        )


def draw_picture(photograph: Image.Image, faces: Sequence[PicturedFace], note: str | None = None) -> Image.Image:
    """Draw a photograph and, below it, the recognition and explanation of each face.

    Args:
        photograph: The upright photograph, RGB.
        faces: Its faces, numbered in this order.
        note: Text at the bottom.

    Returns:
        The picture, RGB, 1200 pixels wide.
    """
    parts = [_photograph(photograph, faces), *(_explained(number, face) for number, face in enumerate(faces, 1))]
    if note is not None:
        parts.append(_note(note))
    height = sum(part.height + _MARGIN for part in parts) + _MARGIN
    picture = Image.new("RGB", (_WIDTH, height), _PAPER)
    top = _MARGIN
    for part in parts:
        picture.paste(part, ((_WIDTH - part.width) // 2, top))
        top += part.height + _MARGIN
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _color(number: int) -> tuple[int, int, int]:
    return _COLORS[(number - 1) % len(_COLORS)]


def _photograph(photograph: Image.Image, faces: Sequence[PicturedFace]) -> Image.Image:
    """Return the photograph with boxes and labels, scaled to fit, at most to twice its size."""
    max_width = _WIDTH - 2 * _MARGIN
    scale = min(max_width / photograph.width, 900 / photograph.height, 2.0)
    size = max(round(photograph.width * scale), 1), max(round(photograph.height * scale), 1)
    resized = photograph.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(resized)
    font = _font(18)
    for number, face in enumerate(faces, 1):
        if face.box is None:
            continue
        x, y, w, h = (side * scale for side in face.box)
        draw.rectangle((x, y, x + w, y + h), outline=_color(number), width=3)
        label = f"{number} {face.recognition.expression} {face.recognition.confidence:.0%}"
        wide = draw.textlength(label, font) + 10
        left = min(max(x - 1, 0), max(resized.width - wide, 0))
        # Above the box, or inside it if there is too little room above.
        top = y - 25 if y >= 25 else y
        draw.rectangle((left, top, left + wide, top + 25), fill=_color(number))
        draw.text((left + 5, top + 2), label, fill=_PAPER, font=font)
    return resized


def _explained(number: int, face: PicturedFace) -> Image.Image:
    """Return the row of one face: thumbnail with probabilities, bars, text."""
    wide = _WIDTH - 2 * _MARGIN
    left = _FACE + _MARGIN
    bars = None if face.action_units is None else _bars(face.action_units, face.action_units_source, number)
    start = left if bars is None else left + _BARS + _MARGIN
    font = _font(18)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text = face.cot.text if face.cot else ""
    lines = _wrapped(text.replace("**", ""), ruler, font, wide - start)
    checks = [(line, color) for text, color in _checks(face) for line in _wrapped(text, ruler, _font(16), wide - start)]
    likely = most_likely(face.recognition)
    text_height = 46 + 24 * len(lines) + 22 * len(checks)
    height = max(_FACE + 24 * (1 + len(likely)), text_height, 0 if bars is None else bars.height)
    row = Image.new("RGB", (wide, height + 8), _PAPER)
    draw = ImageDraw.Draw(row)
    draw.line((0, 0, wide, 0), fill=_color(number), width=3)
    row.paste(ImageOps.pad(face.image.convert("RGB"), (_FACE, _FACE), color=_PAPER), (0, 10))
    for index, (label, probability) in enumerate(likely):
        draw.text((0, _FACE + 16 + 24 * index), f"{label} {probability:.1%}", fill=_SOFT, font=_font(17))
    if bars is not None:
        row.paste(bars, (left, 8))
    draw.text((start, 8), f"{number}  {face.recognition.expression}", fill=_color(number), font=_font(22))
    for index, line in enumerate(lines):
        draw.text((start, 40 + 24 * index), line, fill=_INK, font=font)
    for index, (line, color) in enumerate(checks):
        draw.text((start, 46 + 24 * len(lines) + 22 * index), line, fill=color, font=_font(16))
    return row


def _checks(face: PicturedFace) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the colored lines below the text: the claims by status, if units were measured, then the warnings."""
    lines: list[tuple[str, tuple[int, int, int]]] = []
    if face.action_units is not None and face.review is not None:
        colors: dict[ClaimStatus, tuple[int, int, int]] = {
            "agrees": _AGREES,
            "contradicts": _CONTRADICTS,
            "not measured": _SOFT,
        }
        lines.append((face.review.summary, _INK))
        # Write the status in words, because the font has no check marks.
        lines += [(f"{status}: {phrases}", colors[status]) for status, phrases in face.review.phrases.items()]
    return lines + [(f"Warning: {warning}", _CONTRADICTS) for warning in face.all_warnings]


def _note(note: str) -> Image.Image:
    wide, font = _WIDTH - 2 * _MARGIN, _font(15)
    lines = _wrapped(note, ImageDraw.Draw(Image.new("RGB", (1, 1))), font, wide)
    image = Image.new("RGB", (wide, 20 * len(lines) + 4), _PAPER)
    ImageDraw.Draw(image).multiline_text((0, 0), "\n".join(lines), fill=_SOFT, font=font)
    return image


def _bars(action_units: Intensities, source: str | None, number: int) -> Image.Image:
    bars = strongest_units(action_units)
    name_wide, row_high, font, small = 245, 24, _font(15), _font(13)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    notes = [f"by {source}"] if source else []
    if missing := unmeasured_units(action_units):
        notes.append(f"not measured: {', '.join(map(with_facs, missing))}")
    foot = [line for note in notes for line in _wrapped(note, ruler, small, _BARS)]
    image = Image.new("RGB", (_BARS, 28 + row_high * max(len(bars), 1) + 18 * len(foot) + 8), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), "Action units" if bars else "Action units: none active", fill=_SOFT, font=_font(17))
    for index, (name, value) in enumerate(bars):
        top = 28 + row_high * index
        draw.text((0, top), with_facs(name), fill=_INK, font=font)
        draw.rectangle((name_wide, top + 4, _BARS - 42, top + 15), fill=_TRACK)
        reach = name_wide + round(value * (_BARS - 42 - name_wide))
        draw.rectangle((name_wide, top + 4, reach, top + 15), fill=_color(number))
        draw.text((_BARS - 36, top), f"{value:.2f}", fill=_SOFT, font=font)
    for index, line in enumerate(foot):
        draw.text((0, 32 + row_high * max(len(bars), 1) + 18 * index), line, fill=_SOFT, font=small)
    return image


def _wrapped(
    text: str, ruler: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: float
) -> list[str]:
    """Wrap a text to a width in pixels; a word longer than a line is broken too."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if ruler.textlength(longer, font) <= wide:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while ruler.textlength(line, font) > wide and len(line) > 1:
                fits = next(
                    n for n in range(len(line) - 1, 0, -1) if n == 1 or ruler.textlength(line[:n], font) <= wide
                )
                lines.append(line[:fits])
                line = line[fits:]
        if line or lines:
            lines.append(line)
    return lines
