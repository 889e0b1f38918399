"""The person and the scene of a drawn face: everything besides its action units that determines the image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from explllm.drawn_faces.canvas import Color, mix, shade

HairStyle = Literal["bald", "cropped", "short", "parted", "fringe", "curly", "long", "bob", "bun"]
FacialHair = Literal["none", "stubble", "mustache", "goatee", "beard"]
Glasses = Literal["none", "round", "square"]
_T = TypeVar("_T")

_SKINS: tuple[Color, ...] = (
    (255, 224, 204),
    (250, 211, 184),
    (241, 194, 160),
    (228, 176, 138),
    (209, 152, 112),
    (184, 127, 88),
    (156, 102, 68),
    (126, 80, 54),
    (98, 62, 44),
)
_HAIR_COLORS: tuple[Color, ...] = (
    (32, 26, 28),
    (52, 37, 30),
    (86, 58, 38),
    (122, 82, 48),
    (166, 118, 66),
    (214, 176, 112),
    (158, 70, 38),
    (158, 150, 144),
    (222, 220, 218),
)
_IRISES: tuple[Color, ...] = ((74, 48, 30), (96, 66, 36), (72, 104, 62), (62, 100, 142), (92, 112, 124), (44, 32, 26))
_CLOTHES: tuple[Color, ...] = (
    (66, 92, 138),
    (150, 62, 68),
    (74, 112, 88),
    (188, 156, 84),
    (92, 80, 120),
    (62, 66, 76),
    (206, 200, 192),
    (198, 120, 84),
)
# Hairstyles of masculine and feminine people.
_SHORT_HAIR: tuple[HairStyle, ...] = ("bald", "cropped", "short", "parted", "curly", "fringe")
_LONG_HAIR: tuple[HairStyle, ...] = ("long", "bob", "bun", "curly", "fringe", "parted")


@dataclass(frozen=True)
class Identity:
    """A drawn person, the same in all of their images. Lengths are in face units; colors are RGB."""

    skin: Color
    hair: Color
    iris: Color
    lips: Color
    clothes: Color
    hair_style: HairStyle
    facial_hair: FacialHair
    glasses: Glasses
    part_side: int
    """Side of the parting: 1 for the right half of the image, -1 for the left half."""
    hairline: float
    """Height of the hairline in the middle of the forehead (negative: above the origin)."""
    face_width: float
    """Half the width of the face at the cheekbones."""
    jaw_width: float
    """Half the width of the jaw."""
    chin_length: float
    """Distance from the origin down to the chin."""
    eye_distance: float
    """Half the distance between the centers of the eyes."""
    eye_size: float
    """Half the width of an eye."""
    eye_tilt: float
    """Height of the outer corner of an eye above the inner one."""
    brow_height: float
    """Distance from the center of the eye up to the relaxed brow."""
    brow_width: float
    """Thickness of the brow."""
    nose_width: float
    """Half the width of the nose."""
    nose_length: float
    """Distance from the origin down to the base of the nose."""
    mouth_width: float
    """Half the width of the relaxed mouth."""
    lip_thickness: float
    """Scale of the lips: when relaxed, the lower lip is 1.2 times and the upper lip 0.85 times this thickness."""
    lashes: float
    """Weight of the lashes, 0 to 1."""
    blush: float
    """Redness of the cheeks, 0 to 1."""
    freckles: bool

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Identity:
        """Sample a person."""
        tone = float(rng.uniform(0, len(_SKINS) - 1))
        below = min(int(tone), len(_SKINS) - 2)
        skin = mix(_SKINS[below], _SKINS[below + 1], tone - below)
        masculine = bool(rng.random() < 0.5)
        hair = _pick(rng, _HAIR_COLORS)
        if tone > 5:  # dark skin is paired with dark hair
            hair = _pick(rng, _HAIR_COLORS[:3])
        hair = shade(hair, float(rng.uniform(0.85, 1.15)))
        face_width = float(rng.uniform(0.68, 0.79))
        bearded = masculine and rng.random() < 0.4
        facial_hair: FacialHair = "none"
        if bearded:
            facial_hair = _pick(rng, ("stubble", "mustache", "goatee", "beard"))
        glasses: Glasses = "none"
        if rng.random() < 0.15:
            glasses = _pick(rng, ("round", "square"))
        return cls(
            skin=skin,
            hair=hair,
            iris=_pick(rng, _IRISES if tone < 4 else (_IRISES[0], _IRISES[1], _IRISES[5])),
            lips=mix(skin, (178, 52, 62), float(rng.uniform(0.32, 0.45 if masculine else 0.7))),
            clothes=shade(_pick(rng, _CLOTHES), float(rng.uniform(0.8, 1.15))),
            hair_style=_pick(rng, _SHORT_HAIR if masculine else _LONG_HAIR),
            facial_hair=facial_hair,
            glasses=glasses,
            part_side=1 if rng.random() < 0.5 else -1,
            hairline=float(rng.uniform(-0.78, -0.66)),
            face_width=face_width,
            jaw_width=face_width * float(rng.uniform(0.76, 0.88) if masculine else rng.uniform(0.68, 0.80)),
            chin_length=float(rng.uniform(0.95, 1.05)),
            eye_distance=float(rng.uniform(0.29, 0.34)),
            eye_size=float(rng.uniform(0.145, 0.185)),
            eye_tilt=float(rng.uniform(-0.015, 0.03)),
            brow_height=float(rng.uniform(0.235, 0.275)),
            brow_width=float(rng.uniform(0.055, 0.085) if masculine else rng.uniform(0.04, 0.065)),
            nose_width=float(rng.uniform(0.115, 0.165)),
            nose_length=float(rng.uniform(0.24, 0.32)),
            mouth_width=float(rng.uniform(0.23, 0.29)),
            lip_thickness=float(rng.uniform(0.055, 0.10)),
            lashes=float(rng.uniform(0.1, 0.4) if masculine else rng.uniform(0.4, 1.0)),
            blush=float(rng.uniform(0.1, 0.6)),
            freckles=bool(tone < 3 and rng.random() < 0.2),
        )

    def mirrored(self) -> Identity:
        """Return the mirrored person, with the parting on the other side."""
        return replace(self, part_side=-self.part_side)


@dataclass(frozen=True)
class Scene:
    """The conditions of one image: pose, light and camera."""

    roll: float = 0.0
    """In-plane rotation of the head, in radians, clockwise in the image."""
    yaw: float = 0.0
    """Turn of the head toward the right of the image, in radians."""
    pitch: float = 0.0
    """Nod of the head downward, in radians."""
    scale: float = 1.0
    """Size of the face; at 1 it fills about four fifths of the image height."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Offset of the head from the center of the image, in face units."""
    light_direction: float = -math.pi / 2
    """Direction from which the light comes, in radians clockwise from the right of the image; above by default."""
    light_contrast: float = 0.0
    """Relative increase in brightness from the center of the image to its lit edge."""
    light_gain: float = 1.0
    """Brightness factor."""
    light_warmth: float = 0.0
    """Relative increase of red and decrease of blue."""
    blur: float = 0.0
    """Standard deviation of the blur, in pixels of a 96-pixel image."""
    noise: float = 0.0
    """Standard deviation of the noise, in gray levels from 0 to 255."""
    noise_seed: int = 0
    """Seed of the noise."""
    background: Color = (176, 190, 204)
    """Background color."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Scene:
        """Sample the conditions of an image; the head rolls up to 12 degrees, turns up to 17 and nods up to 10."""
        gray = float(rng.uniform(70, 225))
        red, green, blue = (min(255.0, max(0.0, gray + c)) for c in rng.uniform(-35, 35, 3).tolist())
        return cls(
            roll=float(np.clip(rng.normal(0, 0.08), -0.21, 0.21)),
            yaw=float(np.clip(rng.normal(0, 0.13), -0.3, 0.3)),
            pitch=float(np.clip(rng.normal(0, 0.07), -0.17, 0.17)),
            scale=float(rng.uniform(0.93, 1.08)),
            shift=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.04, 0.04))),
            light_direction=float(rng.uniform(-math.pi, math.pi)),
            light_contrast=float(rng.uniform(0.0, 0.25)),
            light_gain=float(rng.uniform(0.8, 1.08)),
            light_warmth=float(rng.uniform(-0.06, 0.06)),
            blur=float(rng.uniform(0.0, 0.6)),
            noise=float(rng.uniform(0.0, 5.0)),
            noise_seed=int(rng.integers(2**31)),
            background=(red, green, blue),
        )

    def mirrored(self) -> Scene:
        """Return the conditions of the horizontally flipped image (its noise is not flipped)."""
        return replace(
            self,
            roll=-self.roll,
            yaw=-self.yaw,
            shift=(-self.shift[0], self.shift[1]),
            light_direction=math.pi - self.light_direction,
        )


def _pick(rng: np.random.Generator, choices: tuple[_T, ...]) -> _T:
    return choices[int(rng.integers(len(choices)))]
