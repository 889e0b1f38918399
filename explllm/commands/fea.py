"""FEA instruction data for training FEALLM: a description, action units and reasoning for each face.

  explllm fea build faces.parquet -o fea.parquet --model gpt-4o --max_cost 20
  explllm fea build faces.parquet -o fea.parquet --offline

Only the action units, the label and earlier answers are sent to the server, never an image. The API key is read from
the environment. `explllm cot status OUT` prints the progress of a build.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from explllm.commands.cot import BuildOptions, run_build
from explllm.engine.settings import EngineSettings
from explllm.llm.settings import ChatSettings


def build(manifest: Path, *, options: BuildOptions, engine: EngineSettings, chat: ChatSettings) -> int:
    """Build FEA instruction texts for the faces of a manifest, and write a new manifest.

    Each answer is checked against the label and the measured action units. Answers that disagree are requested again,
    or rejected with a reason. The same command resumes a stopped run, and no answer is paid for twice. The exit status
    is 1 if a row failed or the budget ran out.

    Args:
        manifest: A manifest with action units and expressions.
        options: What to write, and how.
        engine: Limits of the engine.
        chat: Model, server, limits and prices.

    Raises:
        InputError: As for `explllm.commands.cot.build`.
        KeyboardInterrupt: After Ctrl-C, once all requests in flight have finished and their answers are written.
    """
    from explllm.engine.instructions import FEA

    return run_build(FEA, manifest, options, engine, chat)


COMMANDS: dict[str, Callable[..., int | None]] = {"build": build}
