"""FEA instruction data: description, action units and reasoning for each face, for FEALLM's training.

  explllm fea build faces.parquet -o fea.parquet --model gpt-4o --max_cost 20
  explllm fea build faces.parquet -o fea.parquet --offline

Only action units, label and earlier answers are sent to the server, never an image. The API key is read from the
environment. `explllm cot status OUT` prints the progress of a build.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from explllm.commands.cot import run_build
from explllm.engine.settings import EngineSettings
from explllm.llm.settings import ChatSettings


def build(
    manifest: Path,
    *,
    out: Path,
    offline: bool = False,
    overwrite: bool = False,
    run_dir: Path | None = None,
    redo: Literal["failed"] | None = None,
    reliability: Path | None = None,
    engine: EngineSettings,
    chat: ChatSettings,
) -> int:
    """Make the FEA instruction texts of a manifest and write it.

    Each answer is checked against label and measured action units; what disagrees is asked for again or rejected with
    the reason. The same command resumes a run that was stopped: no answer is paid for twice. The exit status is 1 if a
    row failed or the budget ended the run.

    Args:
        manifest: A manifest with action units and expressions.
        out: The manifest to write (.parquet, .csv, .jsonl).
        offline: Write by rules, without a language model; the texts are marked as such.
        overwrite: Replace existing outputs that this run did not begin.
        run_dir: Folder of ledger and progress. (default: OUT with the ending .run)
        redo: Discard the recorded answers of failed rows and ask again: failed. Without it, only transient failures and
            unusable answers are requested again, in at most three runs.
        reliability: A table that `reliability -o` wrote, as for `cot build`.
        engine: Limits of the engine.
        chat: Model, server, limits and prices.

    Raises:
        InputError: If the manifest lacks a column, OUT would be lost, or the server refuses the run.
        KeyboardInterrupt: After Ctrl-C, when all requests in flight have finished and are written.
    """
    from explllm.engine.instructions import FEA

    return run_build(FEA, manifest, out, offline, overwrite, None, run_dir, redo, reliability, engine, chat)


COMMANDS: dict[str, Callable[..., int | None]] = {"build": build}
