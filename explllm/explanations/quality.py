"""The quality of chains of thought in a table: form, conclusion, grounding."""

from collections.abc import Iterable
from dataclasses import dataclass

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.checks import form_problems, names_expression, pair_problems
from explllm.explanations.grounding import ground
from explllm.explanations.records import Record


@dataclass(frozen=True)
class Quality:
    """Counts over a table; shares are of `texts`, grounding of `grounded`."""

    texts: int
    """Texts."""
    unlabeled: int
    """Texts whose label is not known."""
    mean_words: float
    """Mean number of words, titles included."""
    over_limit: int
    """Texts of more than 130 words."""
    missing_title: int
    """Texts that lack a section's title, its place having been guessed or not."""
    unnamed_label: int
    """Conclusions that never name the label by its own word."""
    only_another: int
    """Conclusions that name another expression by its own word and never the label."""
    other_verdict: int
    """Texts whose verdict is another expression."""
    unit_numbers: int
    """Texts that give numbers of action units."""
    pronouns: int
    """Texts with personal pronouns."""
    duplicates: int
    """Texts that an earlier row has too."""
    grounded: int
    """Texts whose face has measured action units."""
    precision: float
    """Mean share of claimed units that are measured, in [0, 1]."""
    recall: float
    """Mean share of measured units that are claimed, in [0, 1]."""
    intensity_agreement: float
    """Mean share of intensity words that fit the measured intensity, in [0, 1]."""
    missing_strong: int
    """Texts that leave out a unit of intensity 0.3 or more."""
    unsupported: int
    """Texts that claim a unit of intensity 0."""
    side_errors: int
    """Texts that take left for right."""
    sound: int
    """Texts that pass every local check of the engine."""


def quality(records: Iterable[Record]) -> Quality:
    """Measure the texts of a table.

    Args:
        records: The texts; of one without a label only what needs none is measured, and it passes no check as a whole.

    Returns:
        The counts.
    """
    sums: dict[str, float] = dict.fromkeys(Quality.__dataclass_fields__, 0)
    seen: set[str] = set()
    agreements = 0
    for record in records:
        cot = ChainOfThought.parse(record.text)
        words = len(record.text.split())
        problems = cot.check()
        sums["texts"] += 1
        sums["mean_words"] += words
        sums["over_limit"] += words > MAX_WORDS
        sums["missing_title"] += any("section" in problem for problem in problems)
        if record.expression is None:
            sums["unlabeled"] += 1
        else:
            named = names_expression(cot.conclusion, record.expression)
            sums["unnamed_label"] += not named
            sums["only_another"] += not named and any(names_expression(cot.conclusion, other) for other in Expression)
            sums["other_verdict"] += cot.expression not in (None, record.expression)
            sums["sound"] += not pair_problems(cot, record.action_units, record.expression)
        form = form_problems(cot)
        sums["unit_numbers"] += any("number of" in problem for problem in form)
        sums["pronouns"] += any("pronoun" in problem for problem in form)
        sums["duplicates"] += record.text in seen
        seen.add(record.text)
        if record.action_units is not None:
            found = ground(record.text, record.action_units)
            sums["grounded"] += 1
            sums["precision"] += found.precision
            sums["recall"] += found.recall
            if found.intensity_agreement is not None:
                sums["intensity_agreement"] += found.intensity_agreement
                agreements += 1
            sums["missing_strong"] += bool(found.missing)
            sums["unsupported"] += bool(found.unsupported)
            sums["side_errors"] += bool(found.side_errors)
    sums["mean_words"] /= max(sums["texts"], 1)
    for name in ("precision", "recall"):
        sums[name] /= max(sums["grounded"], 1)
    sums["intensity_agreement"] /= max(agreements, 1)
    means = ("mean_words", "precision", "recall", "intensity_agreement")
    return Quality(**{name: value if name in means else int(value) for name, value in sums.items()})  # type: ignore[arg-type]
