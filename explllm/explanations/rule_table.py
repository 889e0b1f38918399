"""The combinations of action units that indicate an expression, with their FACS sources.

Sources:

- EMFACS: Friesen and Ekman, "EMFACS-7: Emotional Facial Action Coding System" (1983).
- Guide: Ekman, Friesen and Hager, "FACS Investigator's Guide" (2002), table of prototypes and major variants.
- Duchenne: Ekman, Davidson and Friesen, "The Duchenne smile" (1990).

FEAFA codes a raised brow as a whole (FACS 1 and 2), lacks the lip corner depressor (15) and the lip pressor (24), and
codes narrow eyes as Eye Close, although FACS 6 and 7 also narrow the eyes. Combinations that need a missing unit
are listed with the unit that FEAFA codes instead, or with the remaining units and usually a lower weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from explllm.core.expressions import Expression

LIP_SUCK = "Lip Suck"
"""Both lips sucked in: FEAFA's Upper Lip Suck and Lower Lip Suck together."""


@dataclass(frozen=True)
class Pattern:
    """A combination of movements that is a sign of an expression."""

    movements: tuple[str, ...]
    """FEAFA names without the side, or `LIP_SUCK`; all of these movements must be visible."""
    weight: int
    """3 for a prototype, 2 for a major variant, 1 for a weak sign that other expressions share."""
    source: str
    """FACS units and reference."""
    one_sided: bool = False
    """Whether the first movement must be on one side only or clearly stronger on one side; a movement
    without sides qualifies, too."""


PATTERNS: dict[Expression, tuple[Pattern, ...]] = {
    Expression.NEUTRAL: (),
    Expression.HAPPINESS: (
        Pattern(("Lip Corner Pull", "Eye Close"), 3, "6+12, Duchenne"),
        Pattern(("Lip Corner Pull", "Upper Lip Raise", "Lower Lip Depress"), 3, "12+25, a smile that shows the teeth"),
        Pattern(("Lip Corner Pull", "Upper Lip Raise"), 3, "12+25, a smile that shows the teeth"),
        Pattern(("Lip Corner Pull", "Lower Lip Depress"), 3, "12+25, a smile that shows the teeth"),
        Pattern(("Lip Corner Pull", "Jaw Drop"), 3, "12+26, an open smile"),
        Pattern(("Lip Corner Pull",), 3, "12, EMFACS"),
        Pattern(("Lip Corner Stretch", "Eye Close"), 1, "20 beside narrow eyes, close to 6+12"),
    ),
    Expression.SADNESS: (
        Pattern(("Brow Raise", "Brow Lower"), 3, "1+4, EMFACS"),
        Pattern(("Brow Raise", "Chin Raise"), 2, "1+17 of 1+4+15+17, Guide"),
        Pattern(("Brow Lower", "Chin Raise"), 2, "4+17 of 1+4+15+17, Guide"),
        Pattern(("Chin Raise", "Lip Corner Stretch"), 2, "15+17, Guide; FEAFA codes lowered corners as stretched"),
        Pattern(("Brow Lower", "Eye Close"), 1, "4+43, lowered brows and lids"),
        Pattern(("Brow Raise", "Eye Close"), 1, "1+43"),
        Pattern(("Chin Raise", "Eye Close"), 1, "17+43"),
        Pattern(("Chin Raise",), 1, "17 of 11+17, Guide"),
        Pattern(("Brow Raise",), 1, "1 of 1+4, EMFACS"),
        Pattern(("Brow Lower",), 1, "4 of 1+4, EMFACS"),
    ),
    Expression.SURPRISE: (
        Pattern(("Brow Raise", "Lid Raise", "Jaw Drop"), 3, "1+2+5+26, EMFACS"),
        Pattern(("Brow Raise", "Jaw Drop"), 3, "1+2+26, Guide"),
        Pattern(("Brow Raise", "Lid Raise"), 3, "1+2+5, Guide"),
        Pattern(("Lid Raise", "Jaw Drop"), 2, "5+26, Guide"),
        Pattern(("Brow Raise",), 1, "1+2"),
        Pattern(("Lid Raise",), 1, "5"),
        Pattern(("Jaw Drop",), 1, "26"),
    ),
    Expression.FEAR: (
        Pattern(("Brow Raise", "Brow Lower", "Lid Raise"), 3, "1+2+4+5, EMFACS"),
        Pattern(("Brow Raise", "Lid Raise", "Lip Corner Stretch"), 3, "1+2+5+20, Guide"),
        Pattern(("Lid Raise", "Lip Corner Stretch"), 3, "5+20, EMFACS"),
        Pattern(("Brow Raise", "Lip Corner Stretch"), 2, "1+2+20 of 1+2+4+5+20, Guide"),
        Pattern(("Brow Raise", "Brow Lower"), 2, "1+2+4, Guide"),
        Pattern(("Lid Raise", "Jaw Drop"), 2, "5+26, shared with surprise"),
        Pattern(("Brow Raise", "Lid Raise"), 2, "1+2+5, shared with surprise"),
        Pattern(("Lid Raise",), 1, "5"),
        Pattern(("Lip Corner Stretch",), 1, "20"),
        Pattern(("Brow Raise", "Jaw Drop"), 1, "1+2+26, shared with surprise"),
    ),
    Expression.DISGUST: (
        Pattern(("Nose Wrinkle", "Upper Lip Raise"), 3, "9+10, EMFACS"),
        Pattern(("Nose Wrinkle", "Chin Raise"), 3, "9+17, Guide"),
        Pattern(("Upper Lip Raise", "Chin Raise"), 3, "10+17, Guide"),
        Pattern(("Nose Wrinkle", "Brow Lower"), 3, "4+9, Guide"),
        Pattern(("Nose Wrinkle", "Lower Lip Depress"), 3, "9+16+25, Guide"),
        Pattern(("Upper Lip Raise", "Lower Lip Depress"), 3, "10+16+25, Guide"),
        Pattern(("Upper Lip Raise", "Brow Lower"), 2, "4+10"),
        Pattern(("Nose Wrinkle",), 3, "9, EMFACS"),
        Pattern(("Upper Lip Raise",), 2, "10, EMFACS"),
        Pattern(("Lip Corner Stretch", "Chin Raise"), 1, "15+17; FEAFA codes lowered corners as stretched"),
    ),
    Expression.ANGER: (
        Pattern(("Brow Lower", "Lid Raise"), 3, "4+5, EMFACS"),
        Pattern(("Brow Lower", LIP_SUCK), 3, "4+24, EMFACS; FEAFA codes pressed lips as sucked"),
        Pattern(("Brow Lower", "Upper Lip Suck"), 2, "4+24, EMFACS; FEAFA codes pressed lips as sucked"),
        Pattern(("Brow Lower", "Lower Lip Suck"), 2, "4+24, EMFACS; FEAFA codes pressed lips as sucked"),
        Pattern(("Brow Lower", "Jaw Thrust"), 2, "4+29"),
        Pattern(("Brow Lower", "Upper Lip Raise"), 2, "4+10 of 4+5+7+10+23, Guide"),
        Pattern(("Brow Lower", "Chin Raise"), 2, "4+17 of 4+17+23, Guide"),
        Pattern(("Brow Lower", "Eye Close"), 2, "4+7, EMFACS; narrow eyes"),
        Pattern(("Brow Lower", "Jaw Drop"), 2, "4+26 of 4+5+7+25+26, Guide"),
        Pattern(("Brow Lower",), 1, "4"),
        Pattern(("Jaw Thrust",), 1, "29"),
        Pattern(("Upper Lip Raise",), 1, "10 of 4+5+7+10+23, Guide"),
    ),
    Expression.CONTEMPT: (
        Pattern(("Lip Corner Pull", "Chin Raise"), 3, "12+17 on one side, Guide", one_sided=True),
        Pattern(("Lip Corner Pull",), 3, "12 on one side, EMFACS", one_sided=True),
        Pattern(("Lip Corner Stretch",), 1, "14 on one side, EMFACS; FEAFA lacks the dimpler", one_sided=True),
        Pattern(("Upper Lip Raise",), 1, "10 on one side; FEAFA gives no side"),
    ),
}
"""The patterns of each expression. A face is interpreted by the visible pattern with the highest weight. If several
have this weight, the pattern with the strongest movements is used. A pattern of slight movements has weight 1."""

COMPANIONS: dict[Expression, frozenset[str]] = {
    expression: frozenset(name for pattern in patterns for name in pattern.movements)
    for expression, patterns in PATTERNS.items()
} | {
    # Laughing drops the jaw and bares both rows of teeth, and broad smiles stretch the lip corners.
    Expression.HAPPINESS: frozenset(
        ("Lip Corner Pull", "Lip Corner Stretch", "Eye Close", "Upper Lip Raise", "Lower Lip Depress", "Jaw Drop")
    ),
    Expression.SURPRISE: frozenset(("Brow Raise", "Lid Raise", "Jaw Drop", "Lower Lip Depress")),
}
"""Movements that are compatible with an expression."""
