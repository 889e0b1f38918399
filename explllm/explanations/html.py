"""HTML for notebooks: bars with percentages, and texts with highlighted sentences about action units."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from explllm.core.action_units import NAMES, with_facs
from explllm.explanations.claims import claims

# Highlights are translucent and keep the text color, because notebooks have light and dark themes.
_BAR = "display:inline-block;height:.7em;border-radius:.2em;background:#2a6f97;width:{:.1f}em"
_MARK = "background:rgba(226,189,98,.35);color:inherit;border-radius:.2em"


def bars_html(shares: Iterable[tuple[str, float]]) -> str:
    """Return a table of names with bars and percentages.

    Args:
        shares: Names with numbers in [0, 1], in the order of the rows.
    """
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left">'
        f'<span style="{_BAR.format(12 * share)}"></span> {share:.1%}</td></tr>'
        for name, share in shares
    )
    return f"<table>{rows}</table>"


def sections_html(sections: Iterable[tuple[str, str]]) -> str:
    """Return titled texts as HTML; a highlighted sentence has a tooltip with the action units it claims or denies."""
    return "".join(f"<p><strong>{title}:</strong> {_highlighted(text) or '–'}</p>" for title, text in sections)


def _highlighted(text: str) -> str:
    units: dict[str, list[str]] = {}
    for claim in claims(text):
        name = with_facs(NAMES[claim.unit]) + ("" if claim.present else " (absent)")
        units.setdefault(claim.sentence, []).append(name)
    html = ""
    rest = text
    for sentence, names in units.items():
        before, found, after = rest.partition(sentence)
        if found:
            html += (
                f'{escape(before)}<mark style="{_MARK}" title="{escape(", ".join(names))}">{escape(sentence)}</mark>'
            )
            rest = after
    return html + escape(rest)
