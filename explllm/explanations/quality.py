"""Quality statistics for a table of chains of thought: form, conclusion and grounding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.checks import form_problems, names_expression, pair_problems
from explllm.explanations.grounding import ground
from explllm.explanations.records import Record


@dataclass(frozen=True)
class Quality:
    """Counts and means over a table of texts. Precision and recall are means over the `grounded` texts."""

    texts: int
    """Number of texts."""
    unlabeled: int
    """Texts without a label."""
    mean_words: float
    """Mean number of words, including titles."""
    over_limit: int
    """Texts with more than 130 words."""
    missing_title: int
    """Texts with at least one section that is missing or has no title."""
    unnamed_label: int
    """Conclusions that do not contain the label."""
    only_another: int
    """Conclusions that contain another label but not the correct one."""
    other_verdict: int
    """Texts whose verdict is an expression other than the label; texts without a verdict do not count."""
    unit_numbers: int
    """Texts that mention action unit numbers."""
    pronouns: int
    """Texts with personal pronouns."""
    duplicates: int
    """Texts identical to an earlier one."""
    grounded: int
    """Texts whose face has measured action units."""
    precision: float
    """Mean share of claimed units that are active, in [0, 1]."""
    recall: float
    """Mean share of active units that are claimed, in [0, 1]."""
    intensity_agreement: float
    """Mean share of intensity words that fit the measured intensity, in [0, 1], over grounded texts with such words."""
    missing_strong: int
    """Texts that omit a unit of intensity 0.3 or more."""
    unsupported: int
    """Texts that claim a unit of intensity 0."""
    side_errors: int
    """Texts that confuse left and right."""
    sound: int
    """Texts that pass all checks of `pair_problems`."""


def quality(records: Iterable[Record]) -> Quality:
    """Compute quality statistics.

    Args:
        records: The texts. A text without a label is excluded from the label checks and from `sound`.

    Returns:
        The statistics.
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
            grounding = ground(record.text, record.action_units)
            sums["grounded"] += 1
            sums["precision"] += grounding.precision
            sums["recall"] += grounding.recall
            if grounding.intensity_agreement is not None:
                sums["intensity_agreement"] += grounding.intensity_agreement
                agreements += 1
            sums["missing_strong"] += bool(grounding.missing)
            sums["unsupported"] += bool(grounding.unsupported)
            sums["side_errors"] += bool(grounding.side_errors)
    sums["mean_words"] /= max(sums["texts"], 1)
    for name in ("precision", "recall"):
        sums[name] /= max(sums["grounded"], 1)
    sums["intensity_agreement"] /= max(agreements, 1)
    means = ("mean_words", "precision", "recall", "intensity_agreement")
    fields: dict[str, Any] = {name: value if name in means else int(value) for name, value in sums.items()}
    return Quality(**fields)
