"""Words for parts of the face and their movements, and the action units that each combination means.

This module contains only data. The words cover general English and FACS terms, so texts need not use FEAFA names.
"""

from __future__ import annotations

from collections.abc import Iterator

_CORNERS_OF_THE_MOUTH = tuple(
    f"{corner} of {whose} {whole}"
    for corner in ("corner", "corners")
    for whose in ("the", "his", "her", "their", "its", "a")
    for whole in ("mouth", "lip", "lips")
)

PARTS: dict[str, str] = {
    "brow": "brow, brows, eyebrow, eyebrows, eye brow, eye brows, glabella",
    "forehead": "forehead, foreheads",
    "lid": (
        "eyelid, eyelids, lid, lids, upper eyelid, upper eyelids, upper lid, upper lids, upper and lower eyelids, "
        "upper and lower lids, eye lid, eye lids, lidded"
    ),
    "lower lid": "lower eyelid, lower eyelids, lower lid, lower lids",
    "eye": "eye, eyes, eyed",
    "nose": "nose, nasal, bridge of the nose, nose bridge",
    "cheek": "cheek, cheeks, cheeked",
    "jaw": "jaw, jaws, lower jaw, jawline, jawed, mandible",
    "mouth": "mouth, mouths, mouthed",
    "lip": "lip",
    "lips": "lips, lipped",
    "upper lip": "upper lip, upper lips, top lip",
    "lower lip": "lower lip, lower lips, bottom lip",
    "upper lip+lower lip": (
        "upper and lower lip, upper and lower lips, lower and upper lip, lower and upper lips, top and bottom lip, "
        "top and bottom lips"
    ),
    "lip corner": ", ".join(
        ("corner, corners, lip corner, lip corners, mouth corner, mouth corners", *_CORNERS_OF_THE_MOUTH)
    ),
    "chin": "chin, chins, mentalis",
    # Parts without a FEAFA unit. They are listed so that their movements are not assigned to other parts.
    "none": (
        "eye corner, eye corners, corner of the eye, corners of the eyes, corners of the eye, nostril, nostrils, "
        "gaze, head, neck, shoulder, shoulders, teeth, tongue, temple, temples"
    ),
}
"""Parts of the face with their names. ``+`` joins the two parts that a name such as "upper and lower lip" covers."""

VERBS: dict[str, str] = {
    "raise": "raise, lift, elevate, arch, cock, hike, hoist, perk, climb, soar, ascend, heighten",
    "up": "upturn",
    "lower": "lower, depress, descend, dip",
    "down": "droop, sag, slump, downturn",
    "drop": "drop",
    "furrow": "furrow, knit, knot, corrugate, pinch, contract, bunch",
    "frown": "frown, scowl, glower",
    "wrinkle": "wrinkle, crinkle, scrunch, crease, rumple, pleat, crumple, dimple",
    "tense": "tense, tighten, strain, stiffen, tauten",
    "close": "close, shut, narrow",
    "squint": "squint, blink, wink",
    "open": "open, gape",
    "widen": "widen, enlarge, bulge",
    "stretch": "stretch, broaden, elongate, spread",
    "retract": "retract",
    "side": "slide, shift, displace, deviate, skew",
    "suck": "suck, tuck, bite",
    "press": "press, compress, seal",
    "pucker": "pucker, purse, pout, funnel",
    "thrust": "protrude, jut, project, thrust",
    "puff": "puff, blow, inflate, balloon, swell, bloat",
    "smile": "smile, grin, smirk",
    "sneer": "sneer, snarl",
    "pull": "pull, tug",
    "curl": "curl, curve",
    "motion": "turn, push, move, go, shoot, fly, tilt, tip, bend, angle, slant, slope, roll, fold, draw",
}
"""Verbs for each movement, in base form. The lexicon adds their regular forms; `OTHER_FORMS` lists irregular
forms and related words."""

OTHER_FORMS: dict[str, str] = {
    "raise": "uplift, uplifts, uplifted, rise, rises, rising, rose, risen, elevation, elevations, raiser, upraised",
    "up": "upward, upwards, upwardly",
    "lower": "depression, depressor, lowerer",
    "down": "downward, downwards, downwardly, sagged",
    "drop": "slack, slackened, slackening, hang, hangs, hanging, hung, fall, falls, fallen, falling",
    "furrow": "knitted, knits, knitting",
    "wrinkle": "wrinkler",
    "tense": "tension, tight, taut",
    "close": "closure, closures, slit, slits, slitted",
    "open": "openness, ajar, agape, parted, parting",
    "widen": "wide, wider, wideness",
    "stretch": "stretcher",
    "retract": "retraction",
    "out": "outward, outwards, outwardly, sideward",
    "in": "inward, inwards, inwardly",
    "side": "lateral, laterally, sideways, slid, deviation, displacement",
    "suck": "suction, bitten, biting",
    "press": "thin, thinned, pressing",
    "pucker": "puckerer, puckery, rounded",
    "thrust": "protrusion, protruding, jutting, thrusting, thrusts",
    "puff": "blew, blown, puffy, swollen, bulging, puffer",
    "smile": "smirking, smiley",
    "pull": "puller",
    "motion": "drawn, drew, went, gone, shot, shift",
}
"""Nouns, adjectives and irregular forms for each movement. ``motion`` is a movement without a direction."""

MOTIONS = (
    "movement, movements, motion, motions, activity, activation, action, actions, gesture, shape, engagement, engaged, "
    "activated"
)
"""Words for any movement. For some parts, they mean the part's main movement; `ALTERNATIVES` lists other meanings."""

PHRASES: dict[str, str] = {
    "widen": "wide open, open wide, opened wide, opening wide, fully open, widely open, widely opened, open widely, "
    "opened widely",
    "wide eyed": "wide eyed, bug eyed, doe eyed",
    "half closed": "half closed, half shut, hooded",
    "half open": "half open, half opened",
    "half lidded": "heavy lidded, half lidded",
    "open mouthed": "open mouth, open mouthed, slack jawed",
    "tight lipped": "tight lipped",
    "furrow": "draw together",
    "together": "drawn together",
    "thrust": (
        "push forward, pushed forward, pushes forward, pushing forward, forward push, push out, pushed out, "
        "pushed outward, pushed outwards, pushing out, stick out, sticking out, sticks out, thrust forward"
    ),
    "puff": "filled with air, full of air, blown out, blowing out, blown up",
    "press": "pressed into a thin line",
    "side": "to one side",
    "side left": "to the left, towards the left, toward the left, to its left, leftward, leftwards",
    "side right": "to the right, towards the right, toward the right, to its right, rightward, rightwards",
    "forward": "forward",
    "not furrow": "unfurrowed",
    "not wrinkle": "unwrinkled",
    "not smile": "unsmiling",
    "not raise": "unraised",
}
"""Fixed phrases for a movement."""

DIRECTIONS: dict[str, str] = {
    "up": "up",
    "down": "down",
    "in": "in, inside",
    "together": "together",
    "out": "out, back, backward, backwards, to the side, to the sides, to both sides",
    "open": "apart, part, parts",
}
"""Short words that can be directions. Those of ``in`` and ``out`` are directions only after a movement, and the others
also after a part. Elsewhere they have other meanings."""

OWN_PART: dict[str, str] = {
    "smile": "lip corner",
    "frown": "brow",
    "furrow": "brow",
    "squint": "eye",
    "suck": "lips",
    "sneer": "upper lip",
    "pucker": "lips",
    "wide eyed": "eye",
    "half lidded": "lid",
    "open mouthed": "mouth",
    "tight lipped": "lips",
}
"""The part that a movement implies if no suitable part is nearby."""

OWN_GRADES: dict[str, str] = {"half closed": "half", "half lidded": "half", "half open": "half"}
"""The intensity word implied by a movement."""

_RAISED, _LOWERED = ("raise", "up"), ("lower", "down", "drop")
_CLOSED = ("close", "squint", "half closed", "half lidded", "together", "half open")
_DRAWN_IN = ("suck", "in", "press", "tight lipped")


def _meanings() -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], bool]]:
    """Yield part, movements, unit names without side, and whether the units are present."""
    yield "brow", _RAISED, ("Brow Raise",), True
    yield "brow", (*_LOWERED, "furrow", "frown", "wrinkle", "tense", "in", "together", "press"), ("Brow Lower",), True
    yield "forehead", ("furrow", "frown"), ("Brow Lower",), True
    yield "forehead", ("wrinkle", *_RAISED), ("Brow Raise",), True
    yield "lid", (*_RAISED, "open", "widen", "wide eyed", "pull", "retract", "out", "movement"), ("Lid Raise",), True
    yield "lid", (*_LOWERED, *_CLOSED, "tense"), ("Eye Close",), True
    yield "lower lid", (*_RAISED, "tense"), ("Eye Close",), True
    yield "eye", ("widen", "wide eyed"), ("Lid Raise",), True
    yield "eye", (*_CLOSED, "half lidded", "down", "press"), ("Eye Close",), True
    yield "eye", ("open",), ("Eye Close",), False
    yield "nose", ("wrinkle", "furrow", "frown", "movement"), ("Nose Wrinkle",), True
    yield "cheek", ("puff", "widen", "thrust", "out"), ("Cheeks Puff",), True
    yield "jaw", (*_LOWERED, "open", "widen", "open mouthed", "movement"), ("Jaw Drop",), True
    yield "jaw", ("close",), ("Jaw Drop",), False
    yield "jaw", ("thrust", "forward"), ("Jaw Thrust",), True
    yield "jaw", ("side", "side left", "side right"), ("Jaw Slide",), True
    yield "mouth", ("open", "open mouthed", "drop", "half open", "widen"), ("Jaw Drop",), True
    yield "mouth", ("close",), ("Jaw Drop",), False
    for part in ("mouth", "lips"):
        yield part, _RAISED, ("Lip Corner Pull",), True
    yield "lip", _RAISED, ("Upper Lip Raise",), True
    for part in ("mouth", "lips", "lip"):
        yield part, ("curl", "smile"), ("Lip Corner Pull",), True
        yield part, ("down", "stretch", "out", "retract"), ("Lip Corner Stretch",), True
        yield part, ("pucker", "thrust", "forward"), ("Lip Pucker",), True
        yield part, _DRAWN_IN, ("Upper Lip Suck", "Lower Lip Suck"), True
    yield "mouth", ("lower",), ("Lip Corner Stretch",), True
    for part in ("lips", "lip"):
        yield part, ("pull",), ("Lip Corner Pull",), True
        yield part, ("lower", "drop"), ("Lower Lip Depress",), True
        yield part, ("open",), ("Jaw Drop",), True
        yield part, ("widen", "side"), ("Lip Corner Stretch",), True
        yield part, ("close",), ("Jaw Drop",), False
        yield part, ("together",), ("Upper Lip Suck", "Lower Lip Suck"), True
    yield "upper lip", (*_RAISED, "pull", "curl", "sneer", "movement"), ("Upper Lip Raise",), True
    yield "upper lip", _DRAWN_IN, ("Upper Lip Suck",), True
    yield "lower lip", (*_LOWERED, "pull", "curl", "movement"), ("Lower Lip Depress",), True
    yield "lower lip", _DRAWN_IN, ("Lower Lip Suck",), True
    for part in ("upper lip", "lower lip"):
        yield part, ("pucker", "thrust", "forward"), ("Lip Pucker",), True
    yield "lip corner", (*_RAISED, "pull", "curl", "smile", "movement"), ("Lip Corner Pull",), True
    yield "lip corner", (*_LOWERED, "stretch", "retract", "out", "side", "widen"), ("Lip Corner Stretch",), True
    yield "chin", (*_RAISED, "wrinkle", "furrow", "movement"), ("Chin Raise",), True
    yield "chin", ("thrust", "forward"), ("Jaw Thrust",), True


MEANINGS: dict[tuple[str, str], tuple[tuple[str, ...], bool]] = {
    (part, action): (kinds, present) for part, actions, kinds, present in _meanings() for action in actions
}
"""The units that a combination of a part and a movement refers to, and whether it says that they are present.

FEAFA has no units for lowered lip corners (FACS 15) or pressed lips (24). These movements are mapped to the nearest
units, lip corner stretch and lip suck. Raised cheeks (6), tightened lips (23) and flared nostrils have no FEAFA unit
and make no claim. "Open eyes" deny Eye Close; "wide eyes" claim Lid Raise.
"""

ALTERNATIVES: dict[tuple[str, str], tuple[str, ...]] = {
    ("lips", "open"): ("Upper Lip Raise", "Lower Lip Depress"),
    ("lip", "open"): ("Upper Lip Raise", "Lower Lip Depress"),
    ("lips", "raise"): ("Upper Lip Raise",),
    ("lip", "raise"): ("Lip Corner Pull",),
    ("lip", "up"): ("Lip Corner Pull",),
    ("lips", "retract"): ("Upper Lip Suck", "Lower Lip Suck"),
    ("lip", "retract"): ("Upper Lip Suck", "Lower Lip Suck"),
    ("lips", "down"): ("Lower Lip Depress",),
    ("lip", "down"): ("Lower Lip Depress",),
    ("mouth", "down"): ("Lower Lip Depress",),
    ("forehead", "wrinkle"): ("Brow Lower",),
    ("forehead", "furrow"): ("Brow Raise",),
    ("upper lip", "sneer"): ("Nose Wrinkle",),
    ("lip corner", "movement"): ("Lip Corner Stretch",),
    ("lid", "movement"): ("Eye Close",),
    ("upper lip", "movement"): ("Upper Lip Suck",),
    ("lower lip", "movement"): ("Lower Lip Suck",),
    ("jaw", "movement"): ("Jaw Slide Left", "Jaw Slide Right", "Jaw Thrust"),
}
"""Other possible meanings of a movement. For example, parted lips (FACS 25) have no FEAFA unit and may mean a dropped
jaw, a raised upper lip or a depressed lower lip."""

PART_UNITS: dict[str, tuple[str, ...]] = {
    "brow": ("Brow Raise", "Brow Lower"),
    "forehead": ("Brow Raise", "Brow Lower"),
    "lid": ("Lid Raise", "Eye Close"),
    "eye": ("Lid Raise", "Eye Close"),
    "nose": ("Nose Wrinkle",),
    "cheek": ("Cheeks Puff",),
    "jaw": ("Jaw Drop", "Jaw Slide", "Jaw Thrust"),
    "mouth": ("Lip Corner Pull", "Lip Corner Stretch", "Lip Pucker", "Jaw Drop"),
    "lips": (
        *("Lip Corner Pull", "Lip Corner Stretch", "Lip Pucker", "Upper Lip Suck", "Lower Lip Suck"),
        *("Upper Lip Raise", "Lower Lip Depress"),
    ),
    "upper lip": ("Upper Lip Raise", "Upper Lip Suck"),
    "lower lip": ("Lower Lip Depress", "Lower Lip Suck"),
    "lip corner": ("Lip Corner Pull", "Lip Corner Stretch"),
    "chin": ("Chin Raise",),
}
"""The units that are denied if a part does not move."""
PART_UNITS["lip"] = PART_UNITS["lips"]
