"""What ``explllm cot build`` and ``status`` do."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from explllm.chat.client import ChatClient
from explllm.chat.ledger import Ledger
from explllm.chat.request import ChatSettings
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.files import update_json, written_whole
from explllm.core.manifest import Manifest
from explllm.engine.build import Built, build_offline, build_with_model, released_records, with_outcomes
from explllm.engine.command import run_folder
from explllm.engine.face import EngineSettings, Outcome, Status
from explllm.engine.img2au import faces, left_out

LEDGER = "ledger.sqlite"
PROGRESS = "progress.json"


def build(options: argparse.Namespace) -> int:
    """Make the chains of thought of a manifest, and write it.

    Args:
        options: The command line.

    Returns:
        0, or 1 if a row failed or the budget ended the run.

    Raises:
        InputError: If the manifest lacks something, or the server refuses the run; nothing has been spent then.
        KeyboardInterrupt: After Ctrl-C, when all that was in flight is finished and written.
    """
    manifest, out = Manifest.read(options.manifest), Path(options.out)
    manifest.require("action_units", "expression")
    lacking = left_out(manifest)
    if out.suffix not in (".parquet", ".csv", ".jsonl"):
        raise ConfigError(f"the ending {out.suffix!r} of --out", remedy="Use .parquet, .csv or .jsonl.")
    if not options.offline and not options.model:
        raise ConfigError("no model is named", remedy="Give --model NAME, or --offline to write by rules.")
    settings = engine_settings(options)
    folder = run_folder(options.out, options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(1 for _ in faces(manifest))
    watch = _Watch(folder, total)
    with watch:
        if options.offline:
            built, source = build_offline(manifest, settings, watch.seen), "offline"
        else:
            with asyncio.Runner(loop_factory=_fast_loop()) as runner:
                built = runner.run(_with_model(manifest, options, settings, folder, watch))
            source = options.model
    watch.write("stopped" if built.stopped else "done")
    finished = with_outcomes(manifest, built, source)
    finished.write(out)
    if options.json:
        with written_whole(options.json) as temporary:
            temporary.write_text(json.dumps(list(released_records(finished)), indent=1), encoding="utf-8")
    _summary(built, lacking, out)
    if watch.interrupted:
        stop = KeyboardInterrupt()
        stop.add_note(f"{len(built.outcomes)} of {total} faces are done. Run the same command again to go on.")
        raise stop
    return 1 if built.count(Status.FAILED) or built.pending else 0


def engine_settings(options: argparse.Namespace) -> EngineSettings:
    """Return the engine's settings of a command line."""
    return EngineSettings(
        max_rounds=options.max_rounds,
        label_after=options.label_after,
        strong=options.strong,
        temperature=options.temperature,
    )


def print_status(folder: Path) -> None:
    """Print how far a build is; it may be running in another process.

    Args:
        folder: Its run folder.

    Raises:
        MissingPathError: If there is no such run.
    """
    if not (folder / PROGRESS).is_file():
        raise MissingPathError("there is no such build", where=folder, remedy="Give the OUT of `explllm cot build`.")
    told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
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


async def _with_model(
    manifest: Manifest, options: argparse.Namespace, settings: EngineSettings, folder: Path, watch: "_Watch"
) -> Built:
    chat = ChatSettings(
        model=options.model,
        base_url=options.base_url,
        api_key_env=options.api_key_env,
        concurrency=options.concurrency,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        max_cost=options.max_cost,
        price_in=options.price_in,
        price_out=options.price_out,
        timeout=options.timeout,
        max_retries=options.max_retries,
        structured=options.structured,
    )
    with Ledger(folder / LEDGER) as ledger:
        async with ChatClient(chat, ledger) as client:
            await client.check()
            loop = asyncio.get_running_loop()
            task = asyncio.current_task()

            def interrupt() -> None:
                if watch.interrupted and task is not None:
                    task.cancel()  # a second Ctrl-C waits for nothing
                watch.interrupted = True
                client.stop()

            loop.add_signal_handler(signal.SIGINT, interrupt)
            try:
                # As many faces as requests: each face has one request under way at any time.
                return await build_with_model(manifest, client, settings, options.concurrency, watch.seen)
            except* Exception as group:
                # What stops one worker stops all of them alike: one cause is enough to tell.
                raise _first(group) from None
            finally:
                loop.remove_signal_handler(signal.SIGINT)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop, where there is one: at hundreds of requests a second the loop itself is work."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Watch:
    """Shows the progress of a build, and keeps it in a file for other shells."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self.counts: Counter[str] = Counter()
        self.cost = 0.0
        self.interrupted = False
        self._start = self._written = time.monotonic()
        self._progress = Progress(
            TextColumn("chains of thought"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("failed {task.fields[failed]}, {task.fields[cost]:.2f} USD"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=total, failed=0, cost=0.0)

    def __enter__(self) -> None:
        self.write("running")
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def seen(self, outcome: Outcome) -> None:
        self.counts[str(outcome.status)] += 1
        self.cost += outcome.cost
        self._progress.update(self._task, advance=1, failed=self.counts[Status.FAILED], cost=self.cost)
        if time.monotonic() - self._written > 1:
            self.write("running")

    def write(self, state: str) -> None:
        self._written = time.monotonic()
        update_json(
            self.folder / PROGRESS,
            {
                "state": state,
                "total": self.total,
                "done": self.counts.total(),
                "statuses": {str(status): self.counts[status] for status in Status},
                "cost": self.cost,
                "seconds": time.monotonic() - self._start,
                "updated": time.time(),
            },
        )


def _summary(built: Built, lacking: dict[str, int], out: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for status in Status:
        console.print(f"{status!s:26} {built.count(status)}")
    for lack, count in lacking.items():
        console.print(f"{'left out: ' + lack:26} {count}")
    if built.pending:
        console.print(f"{'not done':26} {built.pending} ({built.stopped or 'stopped'})")
    console.print(f"cost {built.cost:.2f} USD, {built.seconds:.1f} s; wrote {out}")
    failed = [(row, outcome) for row, outcome in sorted(built.outcomes.items()) if outcome.status is Status.FAILED]
    for row, outcome in failed[:10]:
        sys.stderr.write(f"failed: row {row + 1}: {outcome.reason}\n")
    if len(failed) > 10:
        sys.stderr.write(f"failed: {len(failed) - 10} more; see the column cot_reason\n")
