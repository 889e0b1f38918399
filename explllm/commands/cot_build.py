"""What ``explllm cot build`` and ``status`` do."""

import argparse
import json
import time
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from explllm.commands.cot import chat_settings, check_ending, run_folder
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.files import atomic_write, check_writable
from explllm.core.manifest import Manifest
from explllm.engine.build import build_offline, build_with_model, released_records, with_outcomes
from explllm.engine.face import Status
from explllm.engine.img2au import faces, skipped_rows
from explllm.engine.progress import (
    PROGRESS,
    BuildIdentity,
    ProgressTracker,
    print_summary,
    read_progress,
)
from explllm.engine.runner import LEDGER, run_with_client
from explllm.engine.settings import EngineSettings
from explllm.llm.ledger import Ledger


def build(options: argparse.Namespace) -> int:
    """Make the chains of thought of a manifest, and write it.

    Args:
        options: The command line.

    Returns:
        0, or 1 if a row failed or the budget ended the run.

    Raises:
        InputError: If the manifest lacks something, OUT would be lost, or the server refuses the run; nothing has been
            spent then. Or if the server refuses key, model or credit later: what was paid for is written then.
        KeyboardInterrupt: After Ctrl-C, when all that was in flight is finished and written.
    """
    manifest, out = Manifest.read(options.manifest), Path(options.out)
    manifest.require("action_units", "expression")
    lacking = skipped_rows(manifest)
    check_ending(out)
    if not options.offline and not options.model:
        raise ConfigError("no model is named", remedy="Give --model NAME, or --offline to write by rules.")
    settings = engine_settings(options)
    folder, source = run_folder(options.out, options.run_dir), "offline" if options.offline else options.model
    making = BuildIdentity(Path(options.manifest), out, source)
    if not options.overwrite:
        making.check_overwrite(folder)
    for file in (folder / PROGRESS, *([options.json] if options.json else [])):
        check_writable(file)
    manifest.check_writable(out)
    watch = ProgressTracker(folder, sum(1 for _ in faces(manifest)), Status, "chains of thought", making)
    if options.offline:
        with watch:
            built = build_offline(manifest, settings, watch.update)
    else:
        # As many faces as requests: each face has one request under way at any time.
        built = run_with_client(
            chat_settings(options),
            folder,
            watch,
            lambda client: build_with_model(manifest, client, settings, options.concurrency, watch.update),
        )
    finish = partial(with_outcomes, outcomes=built.outcomes, source=source)
    with watch.saving(built):
        manifest.write(out, finish)
        if options.json:
            _write_released(
                chain.from_iterable(map(released_records, map(finish, manifest.chunks()))), Path(options.json)
            )
    print_summary(built, Status, lacking, out)
    watch.raise_if_stopped(built)
    return built.exit_status


def _write_released(records: Iterable[dict[str, object]], path: Path) -> None:
    """Write records one at a time as a JSON list: all of them would be in memory twice otherwise."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number, record in enumerate(records):
            stream.write(f"{',' if number else ''}\n{json.dumps(record)}")
        stream.write("\n]\n")


def engine_settings(options: argparse.Namespace) -> EngineSettings:
    """Return the engine's settings of a command line."""
    return EngineSettings(
        max_rounds=options.max_rounds,
        label_after=options.label_after,
        strong=options.strong,
        parse_attempts=options.parse_attempts,
        temperature=options.temperature,
    )


def print_status(folder: Path) -> None:
    """Print how far a build is; it may be running in another process.

    Args:
        folder: Its run folder.

    Raises:
        MissingPathError: If there is no such run.
    """
    told = read_progress(folder)
    if not told:
        raise MissingPathError("there is no such build", where=folder, remedy="Give the OUT of `explllm cot build`.")
    age = time.time() - told["updated"]
    console = Console(highlight=False)
    state = told["state"] if told["state"] != "running" or age < 10 else f"not heard of for {age:.0f} s"
    console.print(f"{state}: {told['done']} of {told['total']} faces, {told['seconds']:.0f} s")
    for name, count in told["statuses"].items():
        console.print(f"  {name:26} {count}")
    if (folder / LEDGER).is_file():
        with Ledger(folder / LEDGER) as ledger:
            totals = ledger.totals()
        console.print(
            f"requests {totals.requests}, answers {totals.answers}, failures {totals.failures}, "
            f"tokens {totals.prompt_tokens} in and {totals.completion_tokens} out, cost {totals.cost:.2f} USD"
        )
