"""The drawing surface of the drawn faces: face coordinates, smooth curves, filled shapes, lines and soft shading.

Face coordinates have their origin between the eyes and the mouth, x to the right of the image and y downwards; the
face is about 2 units high and 1.5 wide. A point also has a depth, on a rounded head, so that a turn or a nod of the
head moves the middle of the face further than its outline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(n, 2) points in face coordinates."""
Image = NDArray[np.uint8]
"""(height, width, 3) red, green and blue, 0 to 255."""
Color = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""

_SUBPIXEL_BITS = 4
_HEAD_DEPTH = 0.6
# Turns (dy, dx) into the direction at right angles.
_ACROSS = np.array([-1.0, 1.0])
# The ellipsoid that gives a point of the face its depth: 1 / half axis squared, half axes in face units.
_HEAD_CURVE = np.array([1 / 0.9**2, 1 / 1.25**2])


@lru_cache(maxsize=64)
def _spline_matrix(n: int, closed: bool, steps: int) -> NDArray[np.float64]:
    """Return the matrix that takes ``n`` control points to points on the Catmull-Rom spline through them."""
    segments = n if closed else n - 1
    t = np.arange(steps) / steps
    weights = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1)
    matrix = np.zeros((segments * steps + (not closed), n))
    for segment in range(segments):
        for k in range(4):
            index = segment + k - 1
            column = index % n if closed else min(max(index, 0), n - 1)
            matrix[segment * steps : (segment + 1) * steps, column] += weights[:, k]
    if not closed:
        matrix[-1, -1] = 1.0
    return matrix


def spline(points: Sequence[Sequence[float]] | Points, *, closed: bool = False, steps: int = 6) -> Points:
    """Return a smooth curve through control points (Catmull-Rom).

    Args:
        points: (n, 2) control points.
        closed: Whether the curve returns to its start.
        steps: Points per segment.

    Returns:
        (m, 2) points of the curve.
    """
    control = np.asarray(points, dtype=np.float64)
    return _spline_matrix(len(control), closed, steps) @ control


@lru_cache(maxsize=256)
def _taper(n: int, ends: tuple[float, float]) -> NDArray[np.float64]:
    """Return the width at each of ``n`` points of a stroke, as a share of the width in its middle."""
    along = np.linspace(0.0, 1.0, n)
    swell = np.sin(math.pi * along) ** 0.7
    taper: NDArray[np.float64] = swell + (1 - swell) * (ends[0] + (ends[1] - ends[0]) * along)
    return taper


@lru_cache(maxsize=8)
def _circle(steps: int) -> Points:
    angle = np.arange(steps) * (2 * math.pi / steps)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def ellipse(x: float, y: float, half_width: float, half_height: float, *, steps: int = 28) -> Points:
    """Return the outline of an upright ellipse.

    Args:
        x: Center, face units.
        y: Center, face units.
        half_width: Half the width, face units.
        half_height: Half the height, face units.
        steps: Number of points.

    Returns:
        (steps, 2) points.
    """
    return shifted(_circle(steps) * (half_width, half_height), x, y)


def shifted(points: Points, x: float, y: float) -> Points:
    """Return points moved by a distance.

    Args:
        points: (n, 2) points, or one point (2,), face units.
        x: Distance to the right, face units.
        y: Distance downwards, face units.

    Returns:
        Points of the same shape.
    """
    moved: Points = points + np.array([x, y])
    return moved


class Canvas:
    """A square picture that is drawn on in face coordinates.

    Args:
        pixels: Side of the picture.
        unit: Pixels per face unit.
        roll: Turn of the head in the picture plane, radians, clockwise as seen.
        yaw: Turn of the head toward the right of the image, radians.
        pitch: Nod of the head downwards, radians.
        shift: Place of the head beside the middle of the picture, face units.
        background: Color the picture starts with.
    """

    def __init__(
        self,
        pixels: int,
        *,
        unit: float,
        roll: float = 0.0,
        yaw: float = 0.0,
        pitch: float = 0.0,
        shift: tuple[float, float] = (0.0, 0.0),
        background: Color = (255.0, 255.0, 255.0),
    ) -> None:
        self.image: Image = np.empty((pixels, pixels, 3), np.uint8)
        self.image[:] = _rgb(background)
        self.unit = unit
        cos, sin = math.cos(roll) * unit, math.sin(roll) * unit
        turn = np.array([[cos, sin], [-sin, cos]])
        # A turn foreshortens what is flat and moves what stands out.
        self._flat = np.diag([math.cos(yaw), math.cos(pitch)]) @ turn
        self._parallax = np.array([math.sin(yaw), math.sin(pitch)]) * _HEAD_DEPTH @ turn
        # Pixel centers lie on whole numbers: the middle of the picture is half a pixel short of pixels / 2.
        self._centre = np.array([(pixels - 1) / 2 + shift[0] * unit, (pixels - 1) / 2 + shift[1] * unit])

    def project(self, points: Points, depth: float | None = None) -> NDArray[np.float64]:
        """Return where points of the face lie in the picture.

        Args:
            points: (n, 2) points, face units.
            depth: One depth for all points, 1 at the tip of the head's curve and 0 at its outline; None: the depth of
                each point on the rounded head.

        Returns:
            (n, 2) pixel coordinates.
        """
        projected: NDArray[np.float64] = points @ self._flat + self._centre
        if depth is None:
            inside = 1 - points**2 @ _HEAD_CURVE
            projected += np.sqrt(np.maximum(inside, 0.0))[:, None] * self._parallax
        else:
            projected += depth * self._parallax
        return projected

    def fill(self, points: Points, color: Color, *, depth: float | None = None) -> None:
        """Fill a closed shape.

        Args:
            points: (n, 2) outline, face units.
            color: Its color.
            depth: As for `project`.
        """
        cv2.fillPoly(self.image, [self._fixed(points, depth)], _rgb(color), cv2.LINE_AA, _SUBPIXEL_BITS)

    def line(
        self, points: Points, color: Color, width: float, *, closed: bool = False, depth: float | None = None
    ) -> None:
        """Draw a line of even width.

        Args:
            points: (n, 2) points, face units.
            color: Its color.
            width: Face units; at least one pixel is drawn.
            closed: Whether the line returns to its start.
            depth: As for `project`.
        """
        thickness = max(1, round(width * self.unit))
        cv2.polylines(
            self.image, [self._fixed(points, depth)], closed, _rgb(color), thickness, cv2.LINE_AA, _SUBPIXEL_BITS
        )

    def stroke(self, points: Points, color: Color, width: float, *, ends: tuple[float, float] = (0.0, 0.0)) -> None:
        """Draw a line that is widest in its middle and tapers toward its ends.

        Args:
            points: (n, 2) points, face units.
            color: Its color.
            width: Width in the middle, face units.
            ends: Width at the two ends as a share of ``width``.
        """
        direction = np.empty_like(points)
        direction[1:-1] = points[2:] - points[:-2]
        direction[0], direction[-1] = points[1] - points[0], points[-1] - points[-2]
        length = np.maximum(np.hypot(direction[:, 0], direction[:, 1]), 1e-9)
        offset = direction[:, ::-1] * _ACROSS * (_taper(len(points), ends) * (width / 2) / length)[:, None]
        self.fill(np.concatenate([points + offset, (points - offset)[::-1]]), color)

    def glow(self, x: float, y: float, radii: tuple[float, float], color: Color, strength: float) -> None:
        """Blend in a soft round patch of color.

        Args:
            x: Center, face units.
            y: Center, face units.
            radii: Horizontal and vertical distance at which the color has faded to a third, face units.
            color: Color toward which the picture is drawn.
            strength: Share of the color at the center, 0 to 1.
        """
        if strength <= 0.01:
            return
        (u, v) = self.project(np.array([[x, y]]))[0]
        rx, ry = radii[0] * self.unit, radii[1] * self.unit
        height, width = self.image.shape[:2]
        x0, x1 = max(0, int(u - 2 * rx)), min(width, int(u + 2 * rx) + 2)
        y0, y1 = max(0, int(v - 2 * ry)), min(height, int(v + 2 * ry) + 2)
        if x0 >= x1 or y0 >= y1:
            return
        # The fading curve is lowered a little, so that it ends at zero on the border of the patch.
        across = np.exp(-(((np.arange(x0, x1) - u) / rx) ** 2)).astype(np.float32)
        down = np.exp(-(((np.arange(y0, y1) - v) / ry) ** 2)).astype(np.float32)
        alpha = np.maximum(down[:, None] * across - 0.02, 0.0) * np.float32(255 * strength)
        _blend(self.image[y0:y1, x0:x1], _rgb(color), alpha.astype(np.uint8))

    @contextmanager
    def clipped(self, points: Points) -> Iterator[None]:
        """Limit the drawing inside the ``with`` block to a closed shape, with soft edges.

        Args:
            points: (n, 2) outline, face units.
        """
        whole, center = self.image, self._centre
        outline = self._fixed(points, None)
        low = np.clip((outline.min(0) >> _SUBPIXEL_BITS) - 1, 0, len(whole) - 1)
        high = np.clip((outline.max(0) >> _SUBPIXEL_BITS) + 3, low + 1, len(whole))
        window = whole[low[1] : high[1], low[0] : high[0]]
        # Inside the block the canvas is a copy of the shape's bounding box, which keeps small shapes cheap.
        self.image, self._centre = window.copy(), center - low
        try:
            yield
            mask = np.zeros(window.shape[:2], np.uint8)
            cv2.fillPoly(mask, [self._fixed(points, None)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
            _blend(window, self.image, mask)
        finally:
            self.image, self._centre = whole, center

    def _fixed(self, points: Points, depth: float | None) -> NDArray[np.int32]:
        scaled: Any = self.project(points, depth) * (1 << _SUBPIXEL_BITS)
        return np.rint(scaled).astype(np.int32)


def mix(first: Color, second: Color, share: float) -> Color:
    """Return the color that lies ``share`` of the way from the first to the second.

    Args:
        first: Color at share 0.
        second: Color at share 1.
        share: 0 to 1.

    Returns:
        The blended color.
    """
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(color: Color, factor: float) -> Color:
    """Return the color made darker or lighter.

    Args:
        color: Any color.
        factor: Below 1 darkens; above 1 lightens.

    Returns:
        The color times the factor, within 0 to 255.
    """
    red, green, blue = (min(255.0, max(0.0, c * factor)) for c in color)
    return red, green, blue


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(c))) for c in color)
    return red, green, blue


def _blend(below: Image, above: Image | tuple[int, int, int], alpha: NDArray[np.uint8]) -> None:
    """Lay a picture or a color over another one in place; ``alpha`` is 255 where it covers.

    Whole numbers in 16 bits are several times faster here than floating point.
    """
    weight = alpha[..., None].astype(np.int16) + (alpha[..., None] >> 7)  # 0 to 256
    difference = np.asarray(above, np.int16) - below
    # Halved, so that 255 x 256 fits into 16 bits.
    below += ((difference * (weight >> 1) + 64) >> 7).astype(np.uint8)
