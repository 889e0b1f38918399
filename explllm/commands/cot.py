"""The command ``explllm cot``: build, estimate, status, check, show."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from explllm.commands.parser import Parser, at_least
from explllm.core.errors import ConfigError

if TYPE_CHECKING:
    from explllm.llm.settings import ChatSettings

_DESCRIPTION = """Chains of thought from measured action units (the Exp-CoT Engine, paper Section III-B).

  explllm cot estimate faces.parquet --model gpt-4o
  explllm cot build faces.parquet -o faces_cot.parquet --model gpt-4o --max-cost 20
  explllm cot build faces.parquet -o faces_cot.parquet --offline
  explllm cot status faces_cot.parquet
  explllm cot check faces_cot.parquet
  explllm cot show faces_cot.parquet 17

Only action units and descriptions go to the server, never an image. The key is read from the environment."""


def run_cot(arguments: list[str]) -> int:
    """Run one of the commands of ``explllm cot``.

    Args:
        arguments: The command line after ``cot``.

    Returns:
        The exit status: 1 if a row failed.

    Raises:
        InputError: If the user made a mistake.
    """
    options = _parser().parse_args(arguments)
    if options.command == "build":
        from explllm.commands.cot_build import build

        return build(options)
    if options.command == "estimate":
        from explllm.commands.cot_build import engine_settings
        from explllm.core.manifest import Manifest
        from explllm.engine.estimate import print_estimate

        print_estimate(Manifest.read(options.manifest), engine_settings(options), chat_settings(options))
    elif options.command == "status":
        from explllm.commands.cot_build import print_status

        print_status(run_folder(options.manifest, options.run_dir))
    elif options.command == "check":
        from explllm.commands.cot_tables import print_quality

        print_quality(Path(options.manifest), options.json)
    else:
        from explllm.commands.cot_tables import print_conversation

        print_conversation(Path(options.manifest), options.row, run_folder(options.manifest, options.run_dir))
    sys.stdout.flush()
    return 0


def run_folder(out: str, given: str | None) -> Path:
    """Return the folder of a build's ledger and progress: the one given, or OUT with the ending ``.run``."""
    return Path(given) if given else Path(out).with_suffix(".run")


def chat_settings(options: argparse.Namespace) -> ChatSettings:
    """Return the client's settings of a command line."""
    from explllm.llm.settings import ChatSettings

    values = {field.name: getattr(options, field.name) for field in fields(ChatSettings) if field.name in options}
    return ChatSettings(**{**values, "model": options.model or ""})


def as_file_name(model: str) -> str:
    """Return a model's name as a part of a file's: models of a hub have slashes in theirs."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", model)


def check_ending(out: Path) -> None:
    """Refuse an output that no manifest can be written to, before any work is done.

    Raises:
        ConfigError: If its ending is none of a manifest's.
    """
    # Here, because the module loads pandas, which the other commands' --help need not wait for.
    from explllm.core.manifest import SUFFIXES

    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"the ending {out.suffix!r} of --out", remedy=f"Use {', '.join(SUFFIXES)}.")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="explllm cot", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    build = commands.add_parser("build", help="make the chains of thought of a manifest")
    build.add_argument("manifest", metavar="M", help="a manifest with action units and expressions")
    build.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="the manifest to write (.parquet, .csv, .jsonl)"
    )
    build.add_argument(
        "--overwrite", action="store_true", help="replace an existing OUT that is not the beginning of this build"
    )
    build.add_argument("--json", metavar="FILE", help="write the accepted rows in the authors' released layout too")
    build.add_argument("--offline", action="store_true", help="write by rules, without any model; texts are so marked")
    build.add_argument("--run-dir", metavar="DIR", help="where ledger and progress go (default: OUT with .run)")
    add_model(build)
    _add_engine(build)
    add_asking(build)

    estimate = commands.add_parser("estimate", help="calls, tokens and cost before anything is spent")
    estimate.add_argument("manifest", metavar="M", help="a manifest with action units and expressions")
    add_model(estimate)
    _add_engine(estimate)

    status = commands.add_parser("status", help="how far a build is, from any shell")
    status.add_argument("manifest", metavar="OUT", help="the manifest that the build writes")
    status.add_argument("--run-dir", metavar="DIR", help="as for build")

    check = commands.add_parser("check", help="quality table of a manifest or of a released list (.json)")
    check.add_argument("manifest", metavar="M", help="a manifest with chains of thought, or a released list")
    check.add_argument("--json", action="store_true", help="print one JSON object")

    show = commands.add_parser("show", help="the whole conversation about one face")
    show.add_argument("manifest", metavar="M", help="the manifest that a build wrote")
    show.add_argument("row", type=at_least(1), metavar="ROW", help="number of the row, from 1")
    show.add_argument("--run-dir", metavar="DIR", help="as for build")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is asked, where, and at what price."""
    parser.add_argument("--model", metavar="NAME", help="the model's name on the server, such as gpt-4o")
    add_server(parser)


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a model is asked, and at what price."""
    parser.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible server (default: OpenAI's)")
    parser.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="VAR", help="variable that holds the key (OPENAI_API_KEY)"
    )
    parser.add_argument("--price-in", type=at_least(0, float), metavar="USD", help="price of a million tokens sent")
    parser.add_argument("--price-out", type=at_least(0, float), metavar="USD", help="price of a million tokens written")


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how fast, how often and for how much money a model is asked."""
    parser.add_argument(
        "--concurrency", type=at_least(1), default=16, metavar="N", help="requests at a time (default: 16)"
    )
    parser.add_argument(
        "--requests-per-minute", type=at_least(1), metavar="N", help="limit of the server, if it has one"
    )
    parser.add_argument("--tokens-per-minute", type=at_least(1), metavar="N", help="limit of the server, if any")
    parser.add_argument("--max-cost", type=at_least(0, float), metavar="USD", help="stop before this much is spent")
    parser.add_argument(
        "--timeout", type=at_least(0.1, float), default=120, metavar="S", help="seconds for one request"
    )
    parser.add_argument("--max-retries", type=at_least(0), default=8, metavar="N", help="of one request (default: 8)")
    parser.add_argument(
        "--structured",
        choices=["auto", "always", "never"],
        default="auto",
        help="ask for JSON by schema: where the server can (auto), always or never",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-rounds", type=at_least(0), default=4, metavar="N", help="rounds of reflection (4)")
    parser.add_argument(
        "--label-after", type=at_least(0), default=2, metavar="N", help="rounds until the true label is given (2)"
    )
    parser.add_argument(
        "--strong", type=at_least(0, float), default=0.3, metavar="X", help="intensity that must be mentioned (0.3)"
    )
    parser.add_argument("--temperature", type=at_least(0, float), default=0.0, metavar="T", help="of sampling (0)")
    parser.add_argument(
        "--parse-attempts", type=at_least(1), default=3, metavar="N", help="asking while an answer cannot be read (3)"
    )
