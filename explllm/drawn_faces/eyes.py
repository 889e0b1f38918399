"""Eyes, brows, forehead and glasses of a drawn face."""

from __future__ import annotations

import numpy as np

from explllm.drawn_faces.canvas import Canvas, Color, Points, ellipse, mix, shade, shifted, spline
from explllm.drawn_faces.identity import Identity
from explllm.drawn_faces.movement import SIDES, Movement

EYE_HEIGHT = -0.10
"""Vertical position of the centers of the eyes, in face units (negative: above the origin)."""
_WHITE: Color = (246, 244, 240)
_PUPIL: Color = (18, 16, 18)


def draw_eyes(canvas: Canvas, identity: Identity, movement: Movement) -> None:
    """Draw both eyes with lids and lashes."""
    for side in SIDES:
        _draw_eye(canvas, identity, movement, side)


def _draw_eye(canvas: Canvas, identity: Identity, movement: Movement, side: int) -> None:
    close, lift = movement.eye_close.at(side), movement.lid_raise.at(side)
    # A smile lifts the cheek and the lower lid (FACS 6, part of FEAFA's Lip Corner Pull).
    cheek = movement.lip_corner_pull.at(side)
    half = identity.eye_size
    x, y = side * identity.eye_distance, EYE_HEIGHT
    height = half * 0.62
    tilt = identity.eye_tilt + 0.012
    skin = identity.skin
    fold = shade(skin, 0.62)

    def curve(center: float, outwards: float = 0.0) -> Points:
        """Return a lid line with its middle at ``center``, extended by ``outwards`` beyond both corners."""
        inner, outer = y + 0.012, y - tilt
        middle = (inner + outer) / 2
        return spline(
            [
                (x - side * (half + outwards), inner),
                (x - side * half * 0.52, middle + (center - middle) * 0.80),
                (x + side * half * 0.08, center),
                (x + side * half * 0.62, middle + (center - middle) * 0.72),
                (x + side * (half + outwards), outer),
            ]
        )

    lower = y + height * (0.80 + 0.35 * lift - 0.38 * cheek - 0.30 * close)
    open_upper = y - height * (0.98 + 0.95 * lift)
    upper = open_upper + (lower - open_upper) * close
    upper_lid, lower_lid = curve(upper), curve(lower)
    ball = ellipse(x, y, half * 1.25, half * 1.05)
    canvas.glow(x, y - height * 0.2, (half * 1.25, half), shade(skin, 0.72), 0.35)
    if close > 0.02:
        canvas.fill(spline([*curve(open_upper)[::6], *lower_lid[::-6]], closed=True, steps=2), shade(skin, 0.88))
    if close < 0.97:
        with canvas.clipped(_between(upper_lid, lower_lid)):
            canvas.fill(ball, _WHITE)
            iris = half * 0.60
            canvas.fill(ellipse(x, y, iris, iris), shade(identity.iris, 0.55))
            canvas.fill(ellipse(x, y, iris * 0.82, iris * 0.82), identity.iris)
            canvas.fill(ellipse(x, y, iris * 0.46, iris * 0.46), _PUPIL)
            # The glint is centered horizontally, because a mirrored face must give the mirrored image.
            canvas.fill(ellipse(x, y - iris * 0.38, iris * 0.20, iris * 0.18), (255, 255, 255))
            canvas.glow(x, upper - 0.01, (half * 1.2, height * 0.35), shade(skin, 0.4), 0.45 * (1 - lift))
    # A raised or closed lid hides the fold of the upper lid.
    fold_height = open_upper - height * (0.42 - 0.25 * lift)
    canvas.stroke(curve(fold_height, -0.02), mix(skin, fold, 0.75 * (1 - 0.8 * lift) * (1 - 0.6 * close)), 0.022)
    canvas.stroke(lower_lid, mix(skin, shade(skin, 0.5), 0.55 + 0.45 * close), 0.018 + 0.012 * close, ends=(0.3, 0.8))
    dark = mix(shade(skin, 0.28), (24, 18, 20), 0.6)
    canvas.stroke(upper_lid, dark, 0.036 + 0.020 * identity.lashes, ends=(0.35, 0.9))
    if identity.lashes > 0.5:
        tip = upper_lid[-1]
        canvas.stroke(
            spline(np.stack([shifted(tip, side * x, y) for x, y in ((-0.03, -0.004), (0.016, -0.012), (0.04, -0.04))])),
            dark,
            0.03 * identity.lashes,
        )
    bag = cheek * 0.7 + movement.nose_wrinkle * 0.5 + close * 0.15
    canvas.stroke(curve(lower + 0.055, -0.03), mix(skin, shade(skin, 0.68), min(1.0, bag)), 0.022)
    if cheek > 0.3:
        _draw_crows_feet(canvas, identity, side, cheek)


def _draw_crows_feet(canvas: Canvas, identity: Identity, side: int, cheek: float) -> None:
    x, y = side * (identity.eye_distance + identity.eye_size + 0.045), EYE_HEIGHT
    color = mix(identity.skin, shade(identity.skin, 0.66), cheek)
    for rise in (-0.035, 0.0, 0.035):
        canvas.stroke(spline([(x, y + rise * 0.5), (x + side * 0.06, y + rise * 1.6)]), color, 0.014)


def _between(upper: Points, lower: Points) -> Points:
    shape: Points = spline([*upper[::3], *lower[-4:0:-3]], closed=True, steps=2)
    return shape


def draw_brows(canvas: Canvas, identity: Identity, movement: Movement) -> None:
    """Draw both brows, the wrinkles above them, and the furrows between them."""
    color = mix(shade(identity.hair, 0.82), shade(identity.skin, 0.35), 0.25)
    wrinkle = shade(identity.skin, 0.66)
    for side in SIDES:
        up, down = movement.brow_raise.at(side), movement.brow_lower.at(side)
        # A brow that is both raised and lowered slants: its inner end rises and its outer end drops (FACS 1+4).
        slant = min(up, down)
        wrinkled_nose = 0.03 * movement.nose_wrinkle
        base = EYE_HEIGHT - identity.brow_height
        inner = base + 0.012 - 0.13 * up + 0.125 * down - 0.16 * slant + wrinkled_nose
        bend = base - 0.028 - 0.17 * up + 0.085 * down + 0.03 * slant + wrinkled_nose * 0.5
        outer = base + 0.028 - 0.115 * up + 0.005 * down + 0.17 * slant
        near = identity.eye_distance - 0.185 - 0.05 * down
        far = identity.eye_distance + identity.eye_size + 0.045
        brow = spline(
            [
                (side * near, inner),
                (side * (near + (far - near) * 0.33), inner * 0.45 + bend * 0.55 - 0.004),
                (side * (near + (far - near) * 0.66), bend),
                (side * far, outer),
            ]
        )
        canvas.stroke(brow, color, identity.brow_width * 1.15, ends=(0.75, 0.15))
        if up > 0.1:
            for rise, length in ((0.12, 0.17), (0.20, 0.13)):
                middle = side * identity.eye_distance * 0.92
                line = [
                    (middle - side * length, base - 0.12 * up - rise + 0.012),
                    (middle, base - 0.15 * up - rise),
                    (middle + side * length, base - 0.12 * up - rise + 0.012),
                ]
                canvas.stroke(spline(line), mix(identity.skin, wrinkle, up * (0.9 - slant * 0.4)), 0.022)
        if down > 0.1:
            furrow = [(side * 0.036, base - 0.06), (side * 0.050, base + 0.02), (side * 0.044, base + 0.11)]
            canvas.stroke(spline(furrow), mix(identity.skin, shade(identity.skin, 0.58), down), 0.026)


def draw_glasses(canvas: Canvas, identity: Identity) -> None:
    """Draw the frame of the person's glasses, if any."""
    if identity.glasses == "none":
        return
    color: Color = (44, 40, 46)
    half = min(identity.eye_distance - 0.05, identity.eye_size + 0.075)
    for side in SIDES:
        x, y = side * identity.eye_distance, EYE_HEIGHT + 0.025
        if identity.glasses == "round":
            rim = ellipse(x, y, half, half * 0.92)
        else:
            w, h, r = half, half * 0.78, half * 0.25
            rim = spline(
                [
                    (x - w, y - h + r),
                    (x - w + r, y - h),
                    (x + w - r, y - h),
                    (x + w, y - h + r),
                    (x + w * 0.94, y + h - r),
                    (x + w - r, y + h),
                    (x - w + r, y + h),
                    (x - w * 0.94, y + h - r),
                ],
                closed=True,
            )
        canvas.line(rim, color, 0.024, closed=True)
        canvas.line(spline([(side * (abs(x) + half), y - 0.03), (side * identity.face_width, y - 0.06)]), color, 0.022)
    bridge = identity.eye_distance - half
    canvas.line(spline([(-bridge, EYE_HEIGHT), (0.0, EYE_HEIGHT - 0.03), (bridge, EYE_HEIGHT)]), color, 0.022)
