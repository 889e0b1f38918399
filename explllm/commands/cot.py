"""Chains of thought from measured action units (the Exp-CoT Engine, paper Section III-B).

  explllm cot estimate faces.parquet --model gpt-4o
  explllm cot build faces.parquet -o cot.parquet --model gpt-4o --max_cost 20
  explllm cot build faces.parquet -o cot.parquet --offline
  explllm cot status cot.parquet
  explllm cot check cot.parquet
  explllm cot show cot.parquet 17

Only action units, labels and earlier answers are sent to the server, never an image. The API key is read from the
environment.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from explllm.commands.outputs import check_ending, check_no_model_options, run_folder
from explllm.commands.parser import Option
from explllm.core.errors import ConfigError, ManifestError
from explllm.core.files import atomic_write, check_writable
from explllm.engine.settings import EngineSettings
from explllm.llm.settings import ChatSettings

if TYPE_CHECKING:
    from rich.table import Table

    from explllm.engine.build import TextKind
    from explllm.explanations.quality import Quality


@dataclass(frozen=True)
class BuildOptions:
    """Outputs of a build."""

    out: Path
    """The manifest to write (.parquet, .csv, .jsonl)."""
    offline: bool = False
    """Write the texts with rules instead of a language model; their recorded source is then `offline`."""
    overwrite: bool = False
    """Replace existing outputs that this run did not create."""
    run_dir: Annotated[Path | None, Option(default="OUT with the suffix .run")] = None
    """Folder for the ledger and the progress file."""
    redo: Literal["failed"] | None = None
    """`failed` discards the recorded answers of failed rows and asks again. Without it, only questions with transient
    failures or unusable answers are asked again, and a question is given up after three runs with unusable answers."""
    reliability: Path | None = None
    """A table that `reliability -o` wrote. In the texts and in OUT, untrusted units count as not measured, and
    intensities below a unit's threshold count as 0."""


def build(
    manifest: Path,
    *,
    options: BuildOptions,
    released: Annotated[Path | None, Option("json")] = None,
    engine: EngineSettings,
    chat: ChatSettings,
) -> int:
    """Build chains of thought for the faces of a manifest, and write a new manifest.

    The same command resumes a stopped run, and no answer is paid for twice. The exit status is 1 if a row failed or the
    budget ran out.

    Args:
        manifest: A manifest with action units and expressions.
        options: What to write, and how.
        released: Also write the accepted rows to this file, in the format that the authors released.
        engine: Limits of the engine.
        chat: Model, server, limits and prices.

    Raises:
        InputError: If the manifest lacks a column, OUT would be overwritten, or the server refuses the run (nothing has
            been spent in these cases); or if the server later rejects the key or the model, or the credit runs out (the
            answers paid for so far are written).
        KeyboardInterrupt: After Ctrl-C, once all requests in flight have finished and their answers are written.
    """
    from explllm.engine.build import COT

    return run_build(COT, manifest, options, engine, chat, released)


def estimate(
    manifest: Path, *, as_json: Annotated[bool, Option("json")] = False, engine: EngineSettings, chat: ChatSettings
) -> None:
    """Print an estimate of the calls, tokens and cost of a build; nothing is sent.

    Args:
        manifest: A manifest with action units and expressions.
        as_json: Print one JSON object.
        engine: Limits of the engine.
        chat: Model, server and prices.
    """
    from explllm.core.manifest import Manifest
    from explllm.engine.estimate import estimate_build, print_estimate

    result = estimate_build(Manifest.read(manifest), engine, chat)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=2) + "\n")
    else:
        print_estimate(result)


def status(out: Path, *, run_dir: Path | None = None, as_json: Annotated[bool, Option("json")] = False) -> None:
    """Print the progress of a build, which may be running in another shell.

    Args:
        out: The manifest that the build writes, or its run folder.
        run_dir: The folder of the build's ledger and progress file; by default, OUT with the suffix .run.
        as_json: Print one JSON object.
    """
    from rich.console import Console

    from explllm.engine.progress import format_cost, load_progress
    from explllm.engine.runner import LEDGER
    from explllm.llm.ledger import Ledger

    # The run folder can also be ".", which has no name to add a suffix to.
    folder = out if run_dir is None and out.is_dir() else run_folder(out, run_dir)
    progress = load_progress(folder)
    totals = None
    if (folder / LEDGER).is_file():
        with Ledger(folder / LEDGER) as ledger:
            totals = ledger.totals()
    if as_json:
        record = {**progress, "requests": None if totals is None else asdict(totals)}
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
        return
    age = time.time() - progress["updated"]
    console = Console(highlight=False, soft_wrap=True)
    state = progress["state"] if progress["state"] != "running" or age < 10 else f"no update for {age:.0f} s"
    console.print(f"{state}: {progress['done']} of {progress['total']} faces, {progress['seconds']:.0f} s")
    for name, count in progress["statuses"].items():
        console.print(f"  {name:26} {count}")
    if totals is not None:
        console.print(
            f"requests {totals.requests}, answers {totals.answers}, failures {totals.failures}, "
            f"tokens {totals.prompt_tokens} in and {totals.completion_tokens} out, "
            f"{format_cost(totals.cost, totals.unpriced)}"
        )


def check(manifest: Path, *, as_json: Annotated[bool, Option("json")] = False) -> None:
    """Print statistics on the quality of the chains of thought in a manifest or a released list (.json).

    Args:
        manifest: A manifest with chains of thought, or a released list.
        as_json: Print one JSON object instead of a table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from explllm.core.console import print_table
    from explllm.explanations.quality import quality
    from explllm.explanations.records import read_records

    result = quality(read_records(manifest))
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=2) + "\n")
        return
    # The title is not parsed as markup, because the path may contain square brackets.
    title = Text(f"{manifest}: {result.texts:,} texts, {result.mean_words:.0f} words on average")
    table = Table(title=title, title_justify="left")
    table.add_column("problem")
    table.add_column("texts", justify="right")
    table.add_column("share", justify="right")
    _add_rows(table, result, _FORM, result.texts)
    if result.grounded:
        table.add_section()
        _add_rows(table, result, _GROUNDING, result.grounded)
    table.add_section()
    _add_rows(table, result, (("passes every check", "sound"),), result.texts)
    console = Console(highlight=False)
    print_table(console, table)
    if result.unlabeled:
        console.print(f"texts without a label, checked for form only: {result.unlabeled:,}")
    if result.grounded:
        console.print(
            f"grounding in {result.grounded:,} texts: precision {result.precision:.3f}, recall {result.recall:.3f}, "
            f"correct intensity words {result.intensity_agreement:.3f}"
        )


def show(manifest: Path, row: Annotated[int, Option(minimum=1)], *, run_dir: Path | None = None) -> None:
    """Print the whole conversation about one face.

    Args:
        manifest: The manifest that a build wrote.
        row: Number of the row, from 1.
        run_dir: The folder of the build's ledger and progress file; by default, OUT with the suffix .run.
    """
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from explllm.core.action_units import NAMES, with_facs
    from explllm.core.manifest import Manifest, face_key
    from explllm.engine.runner import LEDGER
    from explllm.llm.ledger import Ledger
    from explllm.llm.request import clean_text

    table = Manifest.read(manifest)
    if row > len(table):
        raise ManifestError(
            f"no row {row}: the manifest has {len(table)}", where=manifest, remedy="Use the number of one of its rows."
        )
    # `clean_text` removes escape sequences, which paths and answers may contain.
    console = Console(highlight=False, markup=False)
    cells: dict[str, Any] = {
        str(name): clean_text(cell) if isinstance(cell, str) else cell
        for name, cell in table.frame.iloc[row - 1].items()
    }
    row_status = cells.get("cot_status")
    # A row without a result may hold NaN.
    console.print(
        f"{cells['image']}: {cells.get('expression')}, {row_status if isinstance(row_status, str) else 'not done'}"
    )
    units = cells.get("action_units")
    if units is not None:
        shown = {name: value for name, value in zip(NAMES, units, strict=True) if value > 0}
        console.print(", ".join(f"{with_facs(name)} {value:.2f}" for name, value in shown.items()) or "no action units")
    if missing := cells.get("action_units_missing"):
        console.print(f"not measured: {missing}")
    folder = run_folder(manifest, run_dir)
    if (folder / LEDGER).is_file():
        with Ledger(folder / LEDGER) as ledger:
            for entry in ledger.conversation(face_key(table.frame["image"].iloc[row - 1], cells.get("box"))):
                title = f"{entry.purpose}, round {entry.round}, {entry.model}, {entry.cost:.4f} USD"
                pictures = "".join(f"[image, SHA-256 {image.sha256}]\n\n" for image in entry.request.images)
                answer = entry.text or entry.failure or ""
                body = Text(clean_text(f"{pictures}{entry.messages[-1].content}\n\n────────\n\n{answer}"))
                console.print(Panel(body, title=Text(title), title_align="left"))
    if isinstance(cells.get("cot"), str):
        title = f"chain of thought ({cells.get('cot_source')})"
        console.print(Panel(Text(str(cells["cot"])), title=Text(title), title_align="left"))
    if isinstance(cells.get("cot_reason"), str):
        console.print(f"{row_status}: {cells['cot_reason']}")


def run_build(
    kind: TextKind,
    manifest: Path,
    options: BuildOptions,
    engine: EngineSettings,
    chat: ChatSettings,
    released: Path | None = None,
) -> int:
    """Build texts of one kind for a manifest; all arguments except `kind` are as for `build`.

    Returns:
        The exit status.
    """
    from explllm.core.manifest import Manifest
    from explllm.core.reliability import UnitReliability
    from explllm.engine.build import build_offline, build_with_model, released_records, with_outcomes
    from explllm.engine.face import Status
    from explllm.engine.img2au import faces, skipped_rows
    from explllm.engine.progress import PROGRESS, BuildIdentity, ProgressTracker, print_summary
    from explllm.engine.runner import run_with_client

    table = Manifest.read(manifest)
    table.require("action_units", "expression")
    if options.reliability is not None:
        trust = UnitReliability.read(options.reliability)
        table = trust.calibrate_manifest(table)
        sys.stderr.write(f"action units that are not trusted: {', '.join(trust.untrusted) or 'none'}\n")
    skipped = skipped_rows(table)
    out, offline, overwrite, redo = options.out, options.offline, options.overwrite, options.redo
    check_ending(out)
    if not offline and not chat.model:
        raise ConfigError("no model given", remedy="Pass --model NAME, or --offline for rule-based texts.")
    if offline and chat.model:
        raise ConfigError(
            f"both --offline and --model {chat.model} are given",
            remedy="Pass one of them: --offline does not use a model.",
        )
    if offline:
        check_no_model_options(chat, "Omit it, or pass --model NAME instead of --offline.")
    folder, source = run_folder(out, options.run_dir), "offline" if offline else chat.model
    identity = BuildIdentity(manifest, out, source, released, kind.title)
    identity.check_overwrite(folder, overwrite)
    for file in (folder / PROGRESS, *([released] if released else [])):
        check_writable(file)
    table.check_writable(out)
    with identity.lock():
        # Check again, now that the lock prevents other runs from writing.
        identity.check_overwrite(folder, overwrite)
        tracker = ProgressTracker(folder, sum(1 for _ in faces(table)), Status, kind.title, identity)
        if offline:
            with tracker:
                result = build_offline(table, engine, tracker.update, kind)
        else:
            # Each face has at most one request in flight, so `concurrency` also sets the number of faces in progress.
            result = run_with_client(
                chat,
                folder,
                tracker,
                lambda client: build_with_model(table, client, engine, chat.concurrency, tracker.update, redo, kind),
            )
        finish = partial(with_outcomes, outcomes=result.outcomes, source=source, kind=kind)
        with tracker.saving(result):
            table.write(out, finish)
            if released:
                _write_released(chain.from_iterable(map(released_records, map(finish, table.chunks()))), released)
        print_summary(result, Status, skipped, out)
    tracker.raise_if_stopped(result)
    return result.exit_status


COMMANDS: dict[str, Callable[..., int | None]] = {
    "build": build,
    "estimate": estimate,
    "status": status,
    "check": check,
    "show": show,
}

_FORM = (
    ("more than 130 words", "over_limit"),
    ("a section without a title", "missing_title"),
    ("conclusion never names the label", "unnamed_label"),
    ("conclusion names only another label", "only_another"),
    ("supports a different expression", "other_verdict"),
    ("mentions action unit numbers", "unit_numbers"),
    ("uses personal pronouns", "pronouns"),
    ("repeats the text of an earlier row", "duplicates"),
)
_GROUNDING = (
    ("omits a unit of intensity 0.3 or more", "missing_strong"),
    ("claims a unit of intensity 0", "unsupported"),
    ("confuses left and right", "side_errors"),
)


def _write_released(records: Iterable[dict[str, object]], path: Path) -> None:
    """Write records as a JSON list, one at a time to save memory."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number, record in enumerate(records):
            stream.write(f"{',' if number else ''}\n{json.dumps(record)}")
        stream.write("\n]\n")


def _add_rows(table: Table, result: Quality, rows: tuple[tuple[str, str], ...], total: int) -> None:
    for words, name in rows:
        count = getattr(result, name)
        table.add_row(words, f"{count:,}", f"{count / total:.1%}")
