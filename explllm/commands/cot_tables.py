"""What ``explllm cot check`` and ``show`` print."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from explllm.core.action_units import NAMES
from explllm.core.errors import ManifestError
from explllm.core.manifest import Manifest, face_key
from explllm.engine.runner import LEDGER
from explllm.explanations.quality import Quality, quality
from explllm.explanations.records import read_records
from explllm.llm.ledger import Ledger

_ROWS = (
    ("more than 130 words", "over_limit"),
    ("a section without a title", "missing_title"),
    ("conclusion never names the label", "unnamed_label"),
    ("conclusion names only another", "only_another"),
    ("arrives at another expression", "other_verdict"),
    ("gives numbers of action units", "unit_numbers"),
    ("uses personal pronouns", "pronouns"),
    ("has the text of an earlier row", "duplicates"),
)
_GROUNDED = (
    ("leaves out a unit of 0.3 or more", "missing_strong"),
    ("claims a unit of intensity 0", "unsupported"),
    ("takes left for right", "side_errors"),
)


def print_quality(path: Path, as_json: bool) -> None:
    """Print the quality of the texts in a manifest or a released list.

    Args:
        path: The file.
        as_json: Print one JSON object instead of a table.

    Raises:
        InputError: If the file cannot be read or has no texts.
    """
    found = quality(read_records(path))
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
        return
    # Text, and no markup below: paths and what models write may hold square brackets.
    title = Text(f"{path}: {found.texts:,} texts, {found.mean_words:.0f} words on average")
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    table.add_column("texts", justify="right")
    table.add_column("share", justify="right")
    _add(table, found, _ROWS, found.texts)
    if found.grounded:
        table.add_section()
        _add(table, found, _GROUNDED, found.grounded)
    table.add_section()
    _add(table, found, (("passes every check", "sound"),), found.texts)
    console = Console(highlight=False)
    console.print(table)
    if found.unlabeled:
        console.print(f"texts without a label, of which only the rest was checked: {found.unlabeled:,}")
    if found.grounded:
        console.print(
            f"grounding in {found.grounded:,} texts: precision {found.precision:.3f}, recall {found.recall:.3f}, "
            f"intensity words that fit {found.intensity_agreement:.3f}"
        )


def print_conversation(path: Path, row: int, folder: Path) -> None:
    """Print all that was said about one face.

    Args:
        path: The manifest that a build wrote.
        row: Number of the row, from 1.
        folder: The build's run folder.

    Raises:
        InputError: If the manifest has no such row.
    """
    manifest = Manifest.read(path)
    if row > len(manifest):
        raise ManifestError(f"no row {row}: the manifest has {len(manifest)}", where=path, remedy="Name one of these.")
    console, cells = Console(highlight=False, markup=False), manifest.frame.iloc[row - 1]
    status = cells.get("cot_status")
    # Where a row was not done, the cell may hold nan.
    console.print(f"{cells['image']}: {cells.get('expression')}, {status if isinstance(status, str) else 'not done'}")
    units = cells.get("action_units")
    if units is not None:
        shown = {name: value for name, value in zip(NAMES, units, strict=True) if value > 0}
        console.print(", ".join(f"{name} {value:.2f}" for name, value in shown.items()) or "no action units")
    if missing := cells.get("action_units_missing"):
        console.print(f"not measured: {missing}")
    if (folder / LEDGER).is_file():
        with Ledger(folder / LEDGER) as ledger:
            for entry in ledger.conversation(face_key(cells["image"], cells.get("box"))):
                title = f"{entry.purpose}, round {entry.round}, {entry.model}, {entry.cost:.4f} USD"
                pictures = "".join(f"[picture, SHA-256 {one.sha256}]\n\n" for one in entry.request.images)
                answer = entry.text or entry.failure or ""
                said = Text(f"{pictures}{entry.messages[-1].content}\n\n────────\n\n{answer}")
                console.print(Panel(said, title=Text(title), title_align="left"))
    if isinstance(cells.get("cot"), str):
        title = f"chain of thought ({cells.get('cot_source')})"
        console.print(Panel(Text(str(cells["cot"])), title=Text(title), title_align="left"))
    if isinstance(cells.get("cot_reason"), str):
        console.print(f"{status}: {cells['cot_reason']}")


def _add(table: Table, found: Quality, rows: tuple[tuple[str, str], ...], total: int) -> None:
    for words, name in rows:
        count = getattr(found, name)
        table.add_row(words, f"{count:,}", f"{count / total:.1%}")
