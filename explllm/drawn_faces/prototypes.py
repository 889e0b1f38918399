"""The action units of each expression, and sampling of their intensities.

The prototypes are those of the Facial Action Coding System, in FACS numbers: Happiness 6+12, Sadness 1+4+15,
Surprise 1+2+5+26, Fear 1+2+4+5+7+20+26, Disgust 9+15+16, Anger 4+5+7+23, and Contempt 12+14 on one side (Friesen and
Ekman, "EMFACS-7: Emotional Facial Action Coding System", 1983). Two expressions have a second form, from the major
variants in Ekman, Friesen and Hager, "FACS Investigator's Guide", 2002: Disgust 9+17 with a closed mouth, and Anger
4+5+7+10+23+25 with bared teeth. In Disgust, Upper Lip Raise (10) and Brow Lower (4) accompany Nose Wrinkle (9),
because the muscle that wrinkles the nose also moves the lip and the brow.

FEAFA has no unit for FACS 6, 7, 14, 15, 23 and 24. Some of them are replaced with the closest units: in Happiness, an
optional slight Eye Close stands for the narrowed eyes of 6; in Sadness, Chin Raise, which also turns the corners of the
mouth down, stands for 15 (17 accompanies 15 in variants of Sadness); in the first form of Anger, Upper and Lower Lip
Suck stand for the tightened lips of 23. A one-sided Lip Corner Pull alone replaces 12+14. The others, such as 7 in Fear
and Anger, are left out. The intensity ranges are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression

Range = tuple[float, float]
"""Minimum and maximum intensity."""


@dataclass(frozen=True)
class Prototype:
    """One form of an expression. A name without a side, such as ``Brow Raise``, means both sides."""

    defining: Mapping[str, Range]
    """Units that are always present."""
    optional: Mapping[str, Range] = field(default_factory=dict)
    """Units that are each present in half of the faces, independently of the others."""
    one_sided: Mapping[str, Range] = field(default_factory=dict)
    """Units that are always present on one random side and nearly absent on the other."""


_HAPPINESS = Prototype(
    defining={"Lip Corner Pull": (0.45, 1.0)},
    optional={
        "Eye Close": (0.10, 0.40),
        "Jaw Drop": (0.10, 0.45),
        "Upper Lip Raise": (0.10, 0.35),
        "Lower Lip Depress": (0.10, 0.30),
    },
)
_SADNESS = Prototype(
    defining={"Brow Raise": (0.40, 0.75), "Brow Lower": (0.45, 0.80), "Chin Raise": (0.45, 0.95)},
    optional={
        "Eye Close": (0.15, 0.45),
        "Lip Corner Stretch": (0.10, 0.25),
        "Lower Lip Depress": (0.10, 0.25),
        "Lower Lip Suck": (0.10, 0.30),
    },
)
_SURPRISE = Prototype(
    defining={"Brow Raise": (0.55, 1.0), "Lid Raise": (0.45, 1.0), "Jaw Drop": (0.45, 1.0)},
    optional={"Lip Pucker": (0.10, 0.45), "Upper Lip Raise": (0.05, 0.15)},
)
_FEAR = Prototype(
    defining={
        "Brow Raise": (0.45, 0.85),
        "Brow Lower": (0.40, 0.70),
        "Lid Raise": (0.50, 1.0),
        "Lip Corner Stretch": (0.50, 1.0),
        "Jaw Drop": (0.35, 0.55),
    },
    optional={"Lower Lip Depress": (0.15, 0.45), "Upper Lip Raise": (0.05, 0.20)},
)
_DISGUST = Prototype(
    defining={
        "Nose Wrinkle": (0.50, 1.0),
        "Upper Lip Raise": (0.40, 0.90),
        "Brow Lower": (0.35, 0.60),
        "Lower Lip Depress": (0.35, 0.70),
    },
    optional={
        "Eye Close": (0.15, 0.45),
        "Jaw Slide Left": (0.10, 0.30),
        "Jaw Slide Right": (0.10, 0.30),
        "Cheeks Puff": (0.10, 0.25),
        "Jaw Drop": (0.10, 0.25),
    },
)
_DISGUST_CLOSED = Prototype(
    defining={
        "Nose Wrinkle": (0.55, 1.0),
        "Upper Lip Raise": (0.35, 0.60),
        "Brow Lower": (0.35, 0.60),
        "Chin Raise": (0.35, 0.70),
    },
    optional={"Eye Close": (0.15, 0.45), "Lower Lip Depress": (0.10, 0.30)},
)
_ANGER = Prototype(
    defining={
        "Brow Lower": (0.60, 1.0),
        "Lid Raise": (0.35, 0.50),
        "Upper Lip Suck": (0.40, 0.90),
        "Lower Lip Suck": (0.40, 0.90),
    },
    optional={"Jaw Thrust": (0.15, 0.60), "Chin Raise": (0.10, 0.35), "Cheeks Puff": (0.10, 0.35)},
)
_ANGER_OPEN = Prototype(
    defining={
        "Brow Lower": (0.65, 1.0),
        "Lid Raise": (0.35, 0.55),
        "Upper Lip Raise": (0.35, 0.65),
        "Lower Lip Depress": (0.45, 0.85),
        "Jaw Thrust": (0.35, 0.80),
    },
    optional={"Jaw Drop": (0.10, 0.40), "Lip Corner Stretch": (0.10, 0.30)},
)
_CONTEMPT = Prototype(
    defining={},
    one_sided={"Lip Corner Pull": (0.55, 1.0)},
    optional={"Chin Raise": (0.10, 0.30), "Eye Close": (0.10, 0.30)},
)

PROTOTYPES: Mapping[Expression, tuple[Prototype, ...]] = MappingProxyType(
    {
        Expression.NEUTRAL: (Prototype(defining={}),),
        Expression.HAPPINESS: (_HAPPINESS,),
        Expression.SADNESS: (_SADNESS,),
        Expression.SURPRISE: (_SURPRISE,),
        Expression.FEAR: (_FEAR,),
        Expression.DISGUST: (_DISGUST, _DISGUST_CLOSED),
        Expression.ANGER: (_ANGER, _ANGER_OPEN),
        Expression.CONTEMPT: (_CONTEMPT,),
    }
)
"""The forms of each expression, sampled with equal probability."""

NOISE = 0.08
"""Maximum intensity of random units outside the prototype; a neutral face has only these."""
# Probability of a small intensity for a unit outside the prototype.
_NOISE_CHANCE = 0.25
_OPTIONAL_CHANCE = 0.5
# Standard deviation and maximum of the relative difference between the sides.
_ASYMMETRY, _ASYMMETRY_LIMIT = 0.06, 0.12
MINIMUM_DEFINING = 0.35
"""Minimum intensity of a defining unit on either side. Below it, an expression becomes ambiguous."""


def sample_action_units(expression: Expression, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample intensities of an expression: (24,), in [0, 1], in FEAFA's order, rounded to 4 decimals."""
    forms = PROTOTYPES[expression]
    form = forms[int(rng.integers(len(forms)))]
    units = np.where(rng.random(len(NAMES)) < _NOISE_CHANCE, rng.uniform(0.0, NOISE, len(NAMES)), 0.0)
    for name, (low, high) in form.defining.items():
        _set(units, name, float(rng.uniform(low, high)), rng, lowest=MINIMUM_DEFINING)
    for name, (low, high) in form.optional.items():
        if rng.random() < _OPTIONAL_CHANCE:
            _set(units, name, float(rng.uniform(low, high)), rng, lowest=0.0)
    for name, (low, high) in form.one_sided.items():
        side, other = ("Left", "Right") if rng.random() < 0.5 else ("Right", "Left")
        units[NAMES.index(f"{side} {name}")] = rng.uniform(low, high)
        units[NAMES.index(f"{other} {name}")] = rng.uniform(0.0, NOISE)
    return np.clip(units, 0.0, 1.0).round(4)


def _set(units: NDArray[np.float64], name: str, value: float, rng: np.random.Generator, *, lowest: float) -> None:
    """Set a unit, or both sides of a unit with a small difference between them."""
    if name in NAMES:
        units[NAMES.index(name)] = value
        return
    limit = _ASYMMETRY_LIMIT
    tilt = float(np.clip(rng.normal(0.0, _ASYMMETRY), -limit, limit))
    for side, sign in (("Left", 1), ("Right", -1)):
        units[NAMES.index(f"{side} {name}")] = max(lowest, value * (1 + sign * tilt))
