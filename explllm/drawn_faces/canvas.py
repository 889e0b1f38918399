"""The drawing surface of drawn faces: face coordinates, smooth curves, filled shapes, lines and soft shading.

The origin of face coordinates lies between the eyes and the mouth; x points right in the image, and y points down. The
face is about 2 units high and 1.5 wide. Each point also has a depth on a rounded head, so a turn or nod of the head
moves the middle of the face farther than its outline.
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
# Turns (dy, dx) into the perpendicular direction.
_ACROSS = np.array([-1.0, 1.0])
# Ellipsoid that defines the depth of face points: 1 / semi-axis squared, semi-axes in face units.
_HEAD_CURVE = np.array([1 / 0.9**2, 1 / 1.25**2])


@lru_cache(maxsize=64)
def _spline_matrix(n: int, closed: bool, steps: int) -> NDArray[np.float64]:
    """Return the matrix that maps ``n`` control points to points on their Catmull-Rom spline."""
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
    """Return a smooth curve (Catmull-Rom) through control points.

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
    """Return the width at each of ``n`` points of a stroke, relative to the width in its middle."""
    along = np.linspace(0.0, 1.0, n)
    swell = np.sin(math.pi * along) ** 0.7
    taper: NDArray[np.float64] = swell + (1 - swell) * (ends[0] + (ends[1] - ends[0]) * along)
    return taper


@lru_cache(maxsize=8)
def _circle(steps: int) -> Points:
    angle = np.arange(steps) * (2 * math.pi / steps)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def ellipse(x: float, y: float, half_width: float, half_height: float, *, steps: int = 28) -> Points:
    """Return the outline of an upright ellipse around a center, (steps, 2) points in face units."""
    return shifted(_circle(steps) * (half_width, half_height), x, y)


def shifted(points: Points, x: float, y: float) -> Points:
    """Return points (n, 2), or one point (2,), moved to the right by `x` and down by `y`, in face units."""
    moved: Points = points + np.array([x, y])
    return moved


class Canvas:
    """A square image with drawing operations in face coordinates.

    Args:
        pixels: Width and height of the image.
        unit: Pixels per face unit.
        roll: In-plane rotation of the head, in radians, clockwise in the image.
        yaw: Turn of the head toward the right of the image, in radians.
        pitch: Nod of the head downward, in radians.
        shift: Offset of the head from the center of the image, in face units.
        background: Background color.
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
        # A turn foreshortens flat parts and moves protruding ones.
        self._flat = np.diag([math.cos(yaw), math.cos(pitch)]) @ turn
        self._parallax = np.array([math.sin(yaw), math.sin(pitch)]) * _HEAD_DEPTH @ turn
        # Pixel centers have integer coordinates: the center of the image is at (pixels - 1) / 2.
        self._center = np.array([(pixels - 1) / 2 + shift[0] * unit, (pixels - 1) / 2 + shift[1] * unit])

    def project(self, points: Points, depth: float | None = None) -> NDArray[np.float64]:
        """Return the pixel coordinates of face points.

        Args:
            points: (n, 2) points in face units.
            depth: Depth of all points, from 0 at the outline of the head to 1 at its frontmost point; if None, each
                point has its own depth on the rounded head.

        Returns:
            (n, 2) pixel coordinates.
        """
        projected: NDArray[np.float64] = points @ self._flat + self._center
        if depth is None:
            inside = 1 - points**2 @ _HEAD_CURVE
            projected += np.sqrt(np.maximum(inside, 0.0))[:, None] * self._parallax
        else:
            projected += depth * self._parallax
        return projected

    def fill(self, points: Points, color: Color, *, depth: float | None = None) -> None:
        """Fill a shape given its outline, (n, 2) points in face units; for `depth`, see `project`."""
        cv2.fillPoly(self.image, [self._fixed(points, depth)], _rgb(color), cv2.LINE_AA, _SUBPIXEL_BITS)

    def line(
        self, points: Points, color: Color, width: float, *, closed: bool = False, depth: float | None = None
    ) -> None:
        """Draw a line of constant width (in face units, but at least one pixel); for `depth`, see `project`."""
        outline, thickness = [self._fixed(points, depth)], max(1, round(width * self.unit))
        cv2.polylines(self.image, outline, closed, _rgb(color), thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def stroke(self, points: Points, color: Color, width: float, *, ends: tuple[float, float] = (0.0, 0.0)) -> None:
        """Draw a line that is `width` face units wide in the middle and tapers to `ends` times `width` at its ends."""
        direction = np.empty_like(points)
        direction[1:-1] = points[2:] - points[:-2]
        direction[0], direction[-1] = points[1] - points[0], points[-1] - points[-2]
        length = np.maximum(np.hypot(direction[:, 0], direction[:, 1]), 1e-9)
        offset = direction[:, ::-1] * _ACROSS * (_taper(len(points), ends) * (width / 2) / length)[:, None]
        self.fill(np.concatenate([points + offset, (points - offset)[::-1]]), color)

    def glow(self, x: float, y: float, radii: tuple[float, float], color: Color, strength: float) -> None:
        """Blend in a soft elliptical patch of color.

        Args:
            x: Horizontal position of the center, in face units.
            y: Vertical position of the center, in face units.
            radii: Horizontal and vertical distance at which the color has faded to a third, in face units.
            color: Color of the patch.
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
        # The opacity is lowered slightly, to make the patch fade to zero at its border.
        across = np.exp(-(((np.arange(x0, x1) - u) / rx) ** 2)).astype(np.float32)
        down = np.exp(-(((np.arange(y0, y1) - v) / ry) ** 2)).astype(np.float32)
        alpha = np.maximum(down[:, None] * across - 0.02, 0.0) * np.float32(255 * strength)
        _blend(self.image[y0:y1, x0:x1], _rgb(color), alpha.astype(np.uint8))

    @contextmanager
    def clipped(self, points: Points) -> Iterator[None]:
        """Clip the drawing inside the ``with`` block to a closed outline, (n, 2), with antialiased edges."""
        whole, center = self.image, self._center
        outline = self._fixed(points, None)
        low = np.clip((outline.min(0) >> _SUBPIXEL_BITS) - 1, 0, len(whole) - 1)
        high = np.clip((outline.max(0) >> _SUBPIXEL_BITS) + 3, low + 1, len(whole))
        window = whole[low[1] : high[1], low[0] : high[0]]
        # Inside the block the canvas is a copy of the shape's bounding box, because small copies are cheap.
        self.image, self._center = window.copy(), center - low
        try:
            yield
            mask = np.zeros(window.shape[:2], np.uint8)
            cv2.fillPoly(mask, [self._fixed(points, None)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
            _blend(window, self.image, mask)
        finally:
            self.image, self._center = whole, center

    def _fixed(self, points: Points, depth: float | None) -> NDArray[np.int32]:
        scaled: Any = self.project(points, depth) * (1 << _SUBPIXEL_BITS)
        return np.rint(scaled).astype(np.int32)


def mix(first: Color, second: Color, share: float) -> Color:
    """Return a blend of two colors, given the share of the second one, 0 to 1."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(color: Color, factor: float) -> Color:
    """Return a color times a factor, clipped to 0 to 255; a factor below 1 darkens it."""
    red, green, blue = (min(255.0, max(0.0, c * factor)) for c in color)
    return red, green, blue


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(c))) for c in color)
    return red, green, blue


def _blend(below: Image, above: Image | tuple[int, int, int], alpha: NDArray[np.uint8]) -> None:
    """Blend an image or a color into another image in place; ``alpha`` 255 is opaque.

    16-bit integers are several times faster here than floating point.
    """
    weight = alpha[..., None].astype(np.int16) + (alpha[..., None] >> 7)  # 0 to 256
    difference = np.asarray(above, np.int16) - below
    # The weight is halved, because 255 x 256 would not fit into a signed 16-bit integer.
    below += ((difference * (weight >> 1) + 64) >> 7).astype(np.uint8)
