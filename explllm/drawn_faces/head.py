"""Head, hair, beard and body of a drawn face."""

from __future__ import annotations

import numpy as np

from explllm.drawn_faces.canvas import Canvas, Color, Points, ellipse, mix, shade, shifted, spline
from explllm.drawn_faces.identity import Identity
from explllm.drawn_faces.mouth import JawPose, Lips
from explllm.drawn_faces.movement import SIDES, Movement

_CROWN = -1.06


def face_outline(identity: Identity, movement: Movement) -> Points:
    """Return the outline of the face, from the crown around the jaw: (n, 2) points in face units."""
    jaw = JawPose.of(movement)
    wide, narrow, chin = identity.face_width, identity.jaw_width, identity.chin_length
    puff = movement.cheeks_puff
    square = 0.04 * jaw.forward
    # For each point: its distance from the midline, its share of the jaw's slide, and its vertical position.
    half = [
        (wide * 0.62, 0.0, _CROWN + 0.13),
        (wide * 0.96, 0.0, -0.62),
        (wide * 1.02, 0.0, -0.18),
        (wide * 0.99 + 0.04 * puff, 0.0, 0.18),
        (wide * 0.42 + narrow * 0.56 + 0.13 * puff, 0.3, 0.50 + jaw.y * 0.35),
        (narrow * 0.86 + 0.05 * puff + square, 0.7, chin - 0.21 + jaw.y * 0.8),
        (narrow * 0.42 + square, 1.0, chin - 0.035 + jaw.y),
    ]
    right, left = ([(side * x + slide * jaw.x, y) for x, slide, y in half] for side in SIDES)
    return spline([(0.0, _CROWN), *right, (jaw.x, chin + jaw.y + 0.01 * jaw.forward), *left[::-1]], closed=True)


def draw_behind(canvas: Canvas, identity: Identity) -> None:
    """Draw the parts behind the face: long hair or a bun, the neck, and clothes."""
    wide = identity.face_width
    dark = shade(identity.hair, 0.78)
    if identity.hair_style == "long":
        sides = [(wide + 0.16, -0.35), (wide + 0.22, 0.4), (wide + 0.20, 1.0), (wide + 0.10, 1.6)]
        canvas.fill(_both_sides((0.0, _CROWN - 0.14), sides, (0.0, 1.6)), dark, depth=0.0)
    elif identity.hair_style == "bob":
        sides = [(wide + 0.15, -0.4), (wide + 0.22, 0.2), (wide + 0.16, 0.62), (wide * 0.5, 0.78)]
        canvas.fill(_both_sides((0.0, _CROWN - 0.14), sides, (0.0, 0.78)), dark, depth=0.0)
    elif identity.hair_style == "bun":
        canvas.fill(ellipse(0.0, _CROWN - 0.12, 0.28, 0.24), dark, depth=0.0)
    neck = shade(identity.skin, 0.80)
    canvas.fill(spline([(-0.36, 0.5), (0.36, 0.5), (0.40, 1.9), (-0.40, 1.9)], closed=True), neck, depth=0.0)
    shoulders = [(0.50, 1.22), (1.0, 1.32), (1.5, 1.5), (1.7, 2.6)]
    canvas.fill(_both_sides((0.0, 1.38), shoulders, (0.0, 2.6)), identity.clothes, depth=0.0)


def draw_head(canvas: Canvas, identity: Identity, movement: Movement) -> None:
    """Draw ears, face and cheeks."""
    skin = identity.skin
    outline = face_outline(identity, movement)
    # Long hair covers the ears.
    for side in () if identity.hair_style in ("long", "bob") else SIDES:
        canvas.fill(ellipse(side * (identity.face_width + 0.035), 0.02, 0.10, 0.19), shade(skin, 0.90), depth=-0.05)
        canvas.fill(ellipse(side * (identity.face_width + 0.045), 0.03, 0.05, 0.11), shade(skin, 0.74), depth=-0.05)
    # The shadow of the chin on the neck.
    canvas.fill(shifted(outline * (0.9, 1.0), 0.0, 0.07), shade(skin, 0.62), depth=0.0)
    canvas.fill(outline, skin)
    with canvas.clipped(outline):
        jaw = JawPose.of(movement)
        for side in SIDES:
            canvas.glow(side * identity.face_width * 1.05, 0.25, (0.26, 0.75), shade(skin, 0.70), 0.5)
            canvas.glow(side * 0.42, 0.30, (0.17, 0.13), mix(skin, (232, 84, 84), 0.6), 0.15 + 0.40 * identity.blush)
        canvas.glow(jaw.x, identity.chin_length + jaw.y, (0.45, 0.10), shade(skin, 0.7), 0.45)
        canvas.glow(0.0, -0.55, (0.4, 0.2), mix(skin, (255, 255, 255), 0.5), 0.25)
        if identity.freckles:
            _draw_freckles(canvas, identity)
    canvas.line(outline, shade(skin, 0.56), 0.016, closed=True)
    if movement.cheeks_puff > 0.05:
        _draw_puffed_cheeks(canvas, identity, movement.cheeks_puff)


def _draw_puffed_cheeks(canvas: Canvas, identity: Identity, puff: float) -> None:
    skin = identity.skin
    for side in SIDES:
        x = side * (identity.jaw_width * 0.45 + identity.face_width * 0.32)
        canvas.glow(x, 0.50, (0.20, 0.22), shade(skin, 0.66), 0.45 * puff)
        canvas.glow(x, 0.44, (0.15, 0.15), mix(skin, (255, 246, 236), 0.4), 0.85 * puff)
        arc = [(x - side * 0.17, 0.36), (x - side * 0.22, 0.50), (x - side * 0.17, 0.66)]
        canvas.stroke(spline(arc), mix(skin, shade(skin, 0.62), puff), 0.028)


def _draw_freckles(canvas: Canvas, identity: Identity) -> None:
    color = mix(identity.skin, (176, 104, 66), 0.55)
    for side in SIDES:
        for x, y in ((0.24, 0.15), (0.32, 0.19), (0.40, 0.16), (0.30, 0.10), (0.46, 0.21), (0.37, 0.24), (0.12, 0.10)):
            canvas.fill(ellipse(side * x, y, 0.013, 0.012, steps=8), color)


def draw_beard(canvas: Canvas, identity: Identity, movement: Movement) -> None:
    """Draw the facial hair, which moves with the jaw and lips. Call this before drawing the mouth."""
    if identity.facial_hair == "none":
        return
    lips, jaw = Lips.of(identity, movement), JawPose.of(movement)
    color = mix(shade(identity.hair, 0.9), identity.skin, 0.2)
    top = float(lips.top[len(lips.top) // 2][1])
    if identity.facial_hair in ("stubble", "beard"):
        outline = face_outline(identity, movement)
        left, right = lips.upper[0], lips.upper[-1]
        cheek = identity.face_width
        border = spline(
            [
                (-cheek * 1.2, 0.10),
                (-cheek * 0.93, 0.22),
                (left[0] - 0.17, left[1] - 0.02),
                (left[0] - 0.02, left[1] - 0.10),
                (0.0, top - 0.05),
                (right[0] + 0.02, right[1] - 0.10),
                (right[0] + 0.17, right[1] - 0.02),
                (cheek * 0.93, 0.22),
                (cheek * 1.2, 0.10),
            ]
        )
        area = np.concatenate([border, [(cheek * 1.2, 2.0), (-cheek * 1.2, 2.0)]])
        shadow = mix(shade(identity.skin, 0.85), shade(identity.hair, 0.6), 0.25)
        tint = color if identity.facial_hair == "beard" else shadow
        with canvas.clipped(outline):
            canvas.fill(area, tint)
        if identity.facial_hair == "beard":
            # Skin around the lips keeps their shape visible.
            canvas.fill(_grown(lips, 0.028), mix(identity.skin, color, 0.25))
    if identity.facial_hair == "mustache":
        left, right = lips.top[0], lips.top[-1]
        ridge = max(identity.nose_length + 0.075, top - 0.05)
        hair = [
            (left[0] * 0.85, left[1] - 0.005),
            (left[0] * 0.45, ridge * 0.8 + left[1] * 0.2),
            (0.0, ridge),
            (right[0] * 0.45, ridge * 0.8 + right[1] * 0.2),
            (right[0] * 0.85, right[1] - 0.005),
        ]
        canvas.stroke(spline(hair), color, 0.085, ends=(0.2, 0.2))
    if identity.facial_hair == "goatee":
        x, y = lips.bottom[len(lips.bottom) // 2]
        chin = identity.chin_length + jaw.y
        tuft = [(x - 0.10, y + 0.09), (x + 0.10, y + 0.09), (jaw.x + 0.15, chin - 0.05), (jaw.x, chin + 0.04)]
        canvas.fill(spline([*tuft, (jaw.x - 0.15, chin - 0.05)], closed=True), color)


def _grown(lips: Lips, margin: float) -> Points:
    left, right = shifted(lips.upper[:1], -margin, 0.0), shifted(lips.upper[-1:], margin, 0.0)
    return np.concatenate([left, shifted(lips.top, 0.0, -margin), right, shifted(lips.bottom, 0.0, margin)[::-1]])


def draw_hair(canvas: Canvas, identity: Identity) -> None:
    """Draw the hair in front of the face."""
    style = identity.hair_style
    if style == "bald":
        return
    wide, line, side = identity.face_width, identity.hairline, identity.part_side
    thickness = {"cropped": 0.04, "curly": 0.10}.get(style, 0.10)
    temple = {"long": 0.05, "bob": 0.05, "bun": -0.22}.get(style, -0.14)
    outside = [
        (wide * 0.58 + thickness * 0.6, _CROWN + 0.12 - thickness),
        (wide * 0.98 + thickness, -0.64),
        (wide + 0.05 + thickness * 0.6, -0.22),
        (wide + 0.01, temple),
    ]
    inside = [(wide * 0.965, temple - 0.04), (wide * 0.93, -0.38), (wide * 0.74, line + 0.13), (wide * 0.36, line)]
    if style == "fringe":
        inside = [(wide * 0.96, temple), (wide * 0.91, -0.50), (wide * 0.68, -0.62), (wide * 0.30, -0.60)]
        middle: list[tuple[float, float]] = [(0.0, -0.615)]
    elif style in ("parted", "long", "bob"):
        part = side * wide * 0.28
        middle = [(part, line - 0.12)]
        right = [(x, y) for x, y in inside if x > part + 0.08] if side > 0 else inside
        left = [(-x, y) for x, y in (inside if side > 0 else [p for p in inside if p[0] > abs(part) + 0.08])]
        sweep = [(-side * wide * 0.1, line - 0.01)]
        shape = [(0.0, _CROWN - thickness), *outside, *right]
        shape += [*middle, *sweep] if side > 0 else [*sweep, *middle]
        shape += [*left[::-1], *[(-x, y) for x, y in outside[::-1]]]
        _fill_hair(canvas, identity, spline(shape, closed=True))
        return
    else:
        middle = [(0.0, line - 0.015)]
    shape = [(0.0, _CROWN - thickness), *outside, *inside, *middle]
    shape += [(-x, y) for x, y in inside[::-1]] + [(-x, y) for x, y in outside[::-1]]
    _fill_hair(canvas, identity, spline(shape, closed=True))
    if style == "curly":
        _draw_curls(canvas, identity)


def _fill_hair(canvas: Canvas, identity: Identity, shape: Points) -> None:
    canvas.fill(shape, identity.hair)
    shine: Color = mix(identity.hair, (255, 255, 255), 0.35)
    if identity.hair_style != "cropped":
        canvas.glow(0.0, _CROWN + 0.12, (0.40, 0.07), shine, 0.5)


def _draw_curls(canvas: Canvas, identity: Identity) -> None:
    wide, line = identity.face_width, identity.hairline
    for row, (radius, lift) in enumerate(((0.15, 0.04), (0.13, -0.12))):
        color = shade(identity.hair, 1.0 if row == 0 else 1.14)
        for angle in np.linspace(-1.45, 1.45, 11 if row == 0 else 8):
            x = float(np.sin(angle)) * (wide + lift + 0.02)
            y = -0.42 - float(np.cos(angle)) * (-0.42 - _CROWN + lift)
            if abs(x) > wide * 0.55 or y < line - 0.05:
                canvas.fill(ellipse(x, y, radius, radius, steps=14), color, depth=0.2)


def _both_sides(top: tuple[float, float], right: list[tuple[float, float]], bottom: tuple[float, float]) -> Points:
    return spline([top, *right, bottom, *[(-x, y) for x, y in right[::-1]]], closed=True)
