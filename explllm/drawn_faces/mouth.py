"""Mouth and nose of a drawn face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from explllm.drawn_faces.canvas import Canvas, Color, Points, ellipse, mix, shade, shifted, spline
from explllm.drawn_faces.identity import Identity
from explllm.drawn_faces.movement import SIDES, Movement

_TEETH: Color = (248, 244, 234)
_CAVITY: Color = (74, 20, 26)
_TONGUE: Color = (196, 92, 96)
# Distance from the base of the nose down to the relaxed mouth, in face units.
_BELOW_NOSE = 0.27


@dataclass(frozen=True)
class JawPose:
    """Offset of the lower jaw from its relaxed position, in face units."""

    x: float
    y: float
    forward: float
    """Thrust of the jaw, 0 to 1."""

    @classmethod
    def of(cls, movement: Movement) -> JawPose:
        """Return the jaw pose for action units."""
        y = 0.26 * movement.jaw_drop - 0.045 * movement.chin_raise + 0.02 * movement.jaw_thrust
        return cls(x=0.15 * movement.jaw_slide, y=y, forward=movement.jaw_thrust)


@dataclass(frozen=True)
class Lips:
    """The four lines of the mouth, from the left to the right of the image. All end at the corners of the mouth."""

    top: Points
    """Upper border of the upper lip."""
    upper: Points
    """Lower border of the upper lip."""
    lower: Points
    """Upper border of the lower lip."""
    bottom: Points
    """Lower border of the lower lip."""
    gap: float
    """Height of the opening in the middle, in face units."""

    @classmethod
    def of(cls, identity: Identity, movement: Movement) -> Lips:
        """Return a person's lips for action units."""
        m, jaw = movement, JawPose.of(movement)
        line = identity.nose_length + _BELOW_NOSE
        pucker = m.lip_pucker
        half = identity.mouth_width * (1 - 0.45 * pucker) - 0.03 * m.jaw_drop - 0.02 * m.cheeks_puff
        pull, stretch = m.lip_corner_pull, m.lip_corner_stretch
        corners = {
            side: (
                side * (half + 0.085 * pull.at(side) + 0.125 * stretch.at(side)) + jaw.x * 0.55,
                line
                - 0.16 * pull.at(side)
                + 0.055 * stretch.at(side)
                + 0.085 * m.chin_raise
                + 0.07 * m.jaw_drop
                - 0.02 * m.upper_lip_raise
                + 0.03 * m.lower_lip_depress,
            )
            for side in SIDES
        }
        lift = 0.105 * m.upper_lip_raise + 0.03 * m.nose_wrinkle
        upper_y = line - lift - 0.05 * m.chin_raise + 0.03 * pull.mean - 0.02 * m.jaw_drop
        gap = 0.36 * m.jaw_drop + 0.13 * m.lower_lip_depress + 0.6 * lift + 0.04 * max(0.0, pull.mean - 0.5)
        gap += 0.035 * pucker + 0.03 * max(0.0, stretch.mean - 0.4)
        # A sucked lip and a raised chin both close the mouth.
        gap *= (1 - 0.5 * m.chin_raise) * (1 - 0.55 * max(m.upper_lip_suck, m.lower_lip_suck))
        lower_y = upper_y + gap + 0.05 * m.lower_lip_suck * (0.3 + m.jaw_drop)
        fullness = 1 + 0.75 * pucker - 0.25 * pull.mean - 0.25 * stretch.mean
        upper_lip = identity.lip_thickness * 0.85 * fullness * (1 - 0.97 * m.upper_lip_suck)
        lower_lip = identity.lip_thickness * 1.2 * fullness * (1 - 0.97 * m.lower_lip_suck)
        lower_lip *= 1 + 0.35 * m.chin_raise + 0.45 * m.jaw_thrust
        upper_y += 0.03 * m.upper_lip_suck
        middle_x = jaw.x * 0.25

        def across(middle: float, square: float, x: float, offset: float = 0.0, dip: float = 0.0) -> Points:
            """Return a lip line; ``square`` is its relative height halfway to the corners."""
            control = [corners[-1]]
            for t in (-0.55, -0.22, 0.0, 0.22, 0.55):
                corner_x, corner_y = corners[1 if t > 0 else -1]
                share = 1.0 if abs(t) < 0.3 else square
                height = corner_y + (middle + offset - corner_y) * share
                if t == 0.0:
                    height += dip
                control.append((x + (corner_x - x) * abs(t), height))
            control.append(corners[1])
            return spline(control)

        upper_square = 0.72 + 0.22 * m.upper_lip_raise
        lower_square = 0.74 + 0.20 * max(m.lower_lip_depress, m.chin_raise)
        bow = upper_lip * 0.22 * (1 - 0.8 * pull.mean)
        return cls(
            top=across(upper_y, upper_square + 0.02, middle_x * 0.4, -upper_lip, bow),
            upper=across(upper_y, upper_square, middle_x),
            lower=across(lower_y, lower_square, middle_x + jaw.x * 0.45),
            bottom=across(lower_y, lower_square, middle_x + jaw.x * 0.55, lower_lip),
            gap=gap,
        )


def draw_mouth(canvas: Canvas, identity: Identity, movement: Movement) -> None:
    """Draw the lips, the inside of the mouth, and the folds around it."""
    lips = Lips.of(identity, movement)
    skin, m = identity.skin, movement
    _draw_folds(canvas, identity, movement, lips)
    dark = mix(shade(identity.lips, 0.42), (52, 18, 22), 0.4)
    opening = _closed(lips.upper, lips.lower)
    if lips.gap > 0.012:
        canvas.fill(opening, _CAVITY)
        with canvas.clipped(opening):
            _draw_inside(canvas, movement, lips)
    canvas.fill(_closed(lips.top, lips.upper), shade(identity.lips, 0.88))
    bottom_color = mix(shade(identity.lips, 1.04), shade(identity.lips, 1.2), m.jaw_thrust)
    canvas.fill(_closed(lips.lower, lips.bottom), bottom_color)
    middle = len(lips.lower) // 2
    x, y = lips.lower[middle]
    thickness = float(lips.bottom[middle][1] - y)
    canvas.glow(x, y + thickness * 0.5, (0.07, thickness * 0.45 + 0.004), (255, 236, 232), 0.28)
    width = 0.024 + 0.014 * max(m.upper_lip_suck, m.lower_lip_suck)
    canvas.stroke(lips.upper, dark, width, ends=(0.9, 0.9))
    if lips.gap > 0.012:
        canvas.stroke(lips.lower, dark, 0.018, ends=(0.9, 0.9))
    if m.lip_pucker > 0.15:
        for t in (-0.5, -0.17, 0.17, 0.5):
            top = lips.top[middle][1] - 0.012
            where = lips.top[middle][0] + t * 0.17
            canvas.stroke(
                spline([(where, top), (where * 1.15, top - 0.07)]), mix(skin, shade(skin, 0.66), m.lip_pucker), 0.016
            )


def _closed(upper: Points, lower: Points) -> Points:
    return np.concatenate([upper, lower[::-1]])


def _draw_inside(canvas: Canvas, movement: Movement, lips: Lips) -> None:
    m = movement
    middle = len(lips.upper) // 2
    if m.jaw_drop > 0.15:
        x, y = lips.lower[middle]
        canvas.fill(ellipse(x, y + 0.035, 0.15, 0.06 + 0.09 * m.jaw_drop), _TONGUE)
    shown = 0.035 + 0.07 * max(m.upper_lip_raise, m.lip_corner_pull.mean, 0.6 * m.lip_corner_stretch.mean)
    teeth = shifted(lips.upper, 0.0, shown * (1 - m.upper_lip_suck))
    canvas.fill(_closed(shifted(lips.upper, 0.0, -0.02), teeth), _TEETH)
    below = 0.09 * max(m.lower_lip_depress, 0.5 * m.lip_corner_stretch.mean, 0.6 * m.jaw_thrust)
    if below > 0.01:
        teeth = _closed(shifted(lips.lower, 0.0, -below), shifted(lips.lower, 0.0, 0.02))
        canvas.fill(teeth, shade(_TEETH, 0.93))


def _draw_folds(canvas: Canvas, identity: Identity, movement: Movement, lips: Lips) -> None:
    m, skin = movement, identity.skin
    fold = shade(skin, 0.62)
    nose_x, nose_y = identity.nose_width, identity.nose_length
    for side in SIDES:
        corner_x, corner_y = lips.upper[-1] if side > 0 else lips.upper[0]
        pull, stretch = m.lip_corner_pull.at(side), m.lip_corner_stretch.at(side)
        strength = max(pull, 0.9 * m.upper_lip_raise, 0.8 * m.nose_wrinkle)
        if strength > 0.05:
            # The nasolabial fold, from the wing of the nose around the corner of the mouth.
            start = (side * (nose_x + 0.035), nose_y - 0.05 - 0.05 * m.nose_wrinkle)
            end = (corner_x + side * 0.055, corner_y + 0.02)
            bulge = ((start[0] + end[0]) / 2 + side * (0.035 + 0.03 * pull), (start[1] + end[1]) / 2 - 0.02)
            canvas.stroke(spline([start, bulge, end]), mix(skin, fold, min(1.0, strength * 1.1)), 0.030)
        if stretch > 0.05:
            # Vertical lines beside a stretched corner.
            for distance in (0.035, 0.075):
                x = corner_x + side * distance
                canvas.stroke(
                    spline([(x - side * 0.012, corner_y - 0.07), (x, corner_y), (x - side * 0.012, corner_y + 0.07)]),
                    mix(skin, fold, stretch),
                    0.018,
                )
        if pull > 0.05:
            canvas.glow(
                corner_x + side * 0.13, corner_y - 0.20, (0.13, 0.10), mix(skin, (255, 150, 140), 0.5), 0.45 * pull
            )
    _draw_chin_and_sucked_lips(canvas, identity, movement, lips)


def _draw_chin_and_sucked_lips(canvas: Canvas, identity: Identity, movement: Movement, lips: Lips) -> None:
    m, skin = movement, identity.skin
    fold = shade(skin, 0.62)
    middle = len(lips.bottom) // 2
    x, y = lips.bottom[middle]
    under = max(0.25, m.chin_raise, m.jaw_thrust, 0.8 * m.lower_lip_suck)
    canvas.glow(x, y + 0.05, (0.13, 0.035), shade(skin, 0.62), 0.55 * under)
    if m.chin_raise > 0.08:
        color = mix(skin, fold, m.chin_raise)
        arch = [(x - 0.13, y + 0.12), (x, y + 0.06), (x + 0.13, y + 0.12)]
        canvas.stroke(spline(arch), color, 0.030)
        # The skin of a raised chin is dimpled.
        for across, down in ((0.06, 0.12), (0.0, 0.15), (0.09, 0.17), (0.03, 0.19)):
            for dx in {across, -across}:
                canvas.fill(ellipse(x + dx, y + down, 0.016, 0.012, steps=8), color)
    if m.jaw_thrust > 0.05:
        canvas.glow(x, y + 0.16, (0.15, 0.09), mix(skin, (255, 246, 236), 0.45), 0.6 * m.jaw_thrust)
    if m.lower_lip_suck > 0.05:
        line = [(x - 0.17, y + 0.03), (x, y + 0.05), (x + 0.17, y + 0.03)]
        canvas.stroke(spline(line), mix(skin, fold, m.lower_lip_suck), 0.026)
    if m.upper_lip_suck > 0.05:
        x, y = lips.top[middle]
        line = [(x - 0.17, y - 0.035), (x, y - 0.06), (x + 0.17, y - 0.035)]
        canvas.stroke(spline(line), mix(skin, fold, m.upper_lip_suck), 0.026)


def draw_nose(canvas: Canvas, identity: Identity, movement: Movement) -> None:
    """Draw the nose and the wrinkles on its bridge."""
    wrinkle = movement.nose_wrinkle
    skin = identity.skin
    half = identity.nose_width * (1 + 0.22 * wrinkle + 0.08 * movement.upper_lip_raise)
    base = identity.nose_length - 0.075 * wrinkle - 0.015 * movement.upper_lip_raise
    outline = shade(skin, 0.60)
    for side in SIDES:
        canvas.glow(side * half * 0.75, base * 0.35, (0.05, 0.20), shade(skin, 0.72), 0.30)
    canvas.glow(0.0, base * 0.4, (0.045, 0.2), mix(skin, (255, 255, 255), 0.6), 0.4)
    canvas.glow(0.0, base - 0.045, (0.07, 0.05), mix(skin, (255, 235, 225), 0.7), 0.5)
    for side in SIDES:
        wing = [
            (side * half * 0.80, base - 0.10 - 0.03 * wrinkle),
            (side * half * 1.06, base - 0.035 - 0.03 * wrinkle),
            (side * half * 0.80, base + 0.008),
            (side * half * 0.45, base + 0.004),
        ]
        canvas.stroke(spline(wing), outline, 0.028 + 0.012 * wrinkle, ends=(0.2, 0.5))
        canvas.fill(ellipse(side * half * 0.45, base - 0.002, 0.036, 0.016 + 0.012 * wrinkle), shade(skin, 0.36))
    canvas.stroke(
        spline([(-half * 0.3, base + 0.012), (0.0, base + 0.026), (half * 0.3, base + 0.012)]), outline, 0.022
    )
    if wrinkle > 0.05:
        color = mix(skin, shade(skin, 0.52), wrinkle)
        for height in (-0.17, -0.10, -0.03):
            canvas.stroke(
                spline([(-0.085, height + 0.025), (0.0, height - 0.012), (0.085, height + 0.025)]), color, 0.026
            )
        for side in SIDES:
            for height in (-0.02, 0.06):
                line = [(0.075, height - 0.05), (0.105, height + 0.01), (0.15, height + 0.04)]
                canvas.stroke(spline([(side * x, y) for x, y in line]), color, 0.022)
