"""What ``explllm baseline`` does: a model that sees the pictures answers, and its answers become a test like others."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from explllm import __version__
from explllm.commands.cot import as_file_name, chat_settings, check_ending, run_folder
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.expressions import LabelSet
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE, atomic_write, check_writable
from explllm.core.manifest import Manifest
from explllm.engine.baseline import (
    PROMPTS,
    BaselineStatus,
    ask_about,
    choose_label_set,
    face_images,
    skipped_images,
    with_answers,
)
from explllm.engine.estimate import print_baseline_estimate
from explllm.engine.progress import BuildIdentity, ProgressTracker, print_summary, read_progress
from explllm.engine.runner import LEDGER, RunResult, run_all, run_with_client
from explllm.engine.settings import BaselineSettings
from explllm.llm.client import ChatClient
from explllm.llm.prompt import prompt_version
from explllm.llm.settings import ChatSettings
from explllm.metrics.answers import Answers
from explllm.metrics.evaluation import recognition_metrics
from explllm.report.terminal import print_metrics


def baseline(options: argparse.Namespace) -> int:
    """Ask a model about the pictures of a manifest; write its answers, and the figures of a test where all are in.

    Args:
        options: The command line.

    Returns:
        0, or 1 if a row failed or the budget ended the run.

    Raises:
        InputError: If the pictures may not be sent, the manifest lacks something, OUT or figures of another run would
            be lost, or the server refuses the run; nothing has been sent then.
        KeyboardInterrupt: After Ctrl-C, when all that was in flight is finished and written.
    """
    if not options.model:
        raise ConfigError("no model is named", remedy="Give --model NAME, such as gpt-4o.")
    manifest = _chosen(options)
    labels = choose_label_set(manifest, options.label_set)
    lacking = skipped_images(manifest, labels)
    faces = list(face_images(manifest, labels))
    # The price of a model is known whether or not there is a key.
    chat = chat_settings(options)
    if options.estimate:
        print_baseline_estimate(len(faces), options.model, labels, replace(chat, max_cost=None).price())
        return 0
    if not options.send_images:
        raise ConfigError(
            f"{len(faces):,} pictures of faces would be sent to {chat.host}: they are personal data, and nothing "
            "leaves this machine unless you say so",
            remedy="Pass --send-images if these pictures may be given to that server; --estimate tells the cost first.",
        )
    out = _out(options)
    check_ending(out)
    if not any(face.image.is_file() for _, face in faces):
        raise MissingPathError(
            f"none of {len(faces):,} images is there, first {faces[0][1].image}",
            remedy="Give the folder that image paths start from by --root.",
        )
    settings = BaselineSettings(labels, options.size, options.margin, options.max_tokens, options.temperature)
    folder = run_folder(str(out), options.run_dir)
    # Not the model's name alone: `explllm cot build` may have made an OUT of that name with the same model.
    source = f"{options.model} as a baseline"
    making = BuildIdentity(Path(options.manifest), out, source)
    if not options.overwrite:
        making.check_overwrite(folder)
    _refuse_folder(folder, source, options.overwrite)
    check_writable(folder / METRICS_FILE)
    manifest.check_writable(out)
    watch = ProgressTracker(folder, len(faces), BaselineStatus, f"asking {options.model}", making)

    async def work(client: ChatClient) -> RunResult:
        # They are of an earlier run, perhaps of other faces; until the server is known to answer they stay.
        for name in (METRICS_FILE, PREDICTIONS_FILE):
            (folder / name).unlink(missing_ok=True)
        return await run_all(
            faces,
            len(faces),
            lambda face: ask_about(face, client.ask, settings),
            chat.concurrency,
            watch.update,
            client.ledger,
        )

    built = run_with_client(chat, folder, watch, work)
    with watch.saving(built):
        answered = with_answers(manifest, built.outcomes, options.model, labels)
        answered.write(out)
    print_summary(built, BaselineStatus, lacking, out)
    watch.raise_if_stopped(built)
    if not built.pending:
        _write_test(answered, labels, chat, settings, folder)
    return built.exit_status


def _chosen(options: argparse.Namespace) -> Manifest:
    """Read the manifest, and keep the rows that are asked for."""
    if options.root is not None and not Path(options.root).is_dir():
        raise MissingPathError("there is no such folder", where=options.root, remedy="Check --root.")
    manifest = Manifest.read(options.manifest, options.root)
    if options.split is not None:
        manifest = manifest.select(split=options.split)
    if options.sample is not None and options.sample < len(manifest):
        # The first of one order, so that a greater sample goes on from a smaller one.
        rows = np.sort(np.random.default_rng(options.seed).permutation(len(manifest))[: options.sample])
        manifest = Manifest(manifest.frame.iloc[rows], manifest.root, manifest.path)
    return manifest


def _out(options: argparse.Namespace) -> Path:
    """Return the manifest to write: the one given, or one beside that which is read, with the model's name."""
    if options.out is not None:
        return Path(options.out)
    path = Path(options.manifest)
    return path.with_name(f"{path.stem}_{as_file_name(options.model)}{path.suffix}")


def _refuse_folder(folder: Path, source: str, overwrite: bool) -> None:
    """Refuse a run folder in which other files would be lost.

    Raises:
        ConfigError: If it holds files but no ledger, as that of a training does; or those of another run, unless they
            may be replaced.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LEDGER).is_file():
        raise ConfigError(
            "the run folder holds files that are not of a baseline", where=folder, remedy="Name another --run-dir."
        )
    made_by = read_progress(folder).get("source", source)
    if made_by != source and not overwrite:
        raise ConfigError(
            f"the run folder is that of {made_by}, not of {source}",
            where=folder,
            remedy="Name another --run-dir, or pass --overwrite.",
        )


def _write_test(
    answered: Manifest, labels: LabelSet, chat: ChatSettings, settings: BaselineSettings, folder: Path
) -> None:
    """Write figures and predictions as `explllm test` leaves them, and print the figures."""
    console = Console(soft_wrap=True)
    table = answered.frame
    labeled = table[table["expression"].notna()] if "expression" in table else table.iloc[:0]
    if labeled.empty or not (labeled["unreadable"].isna() & labeled["answer"].notna()).any():
        console.print("no figures: no answered face is labeled")
        return
    answers = Answers.from_table(labeled, tuple(labels), unknown_labels="leave_out")
    figures: dict[str, Any] = {
        **recognition_metrics(answers),
        "unreadable": table.loc[table["unreadable"].notna(), "image"].tolist(),
        "root": str(answered.root.resolve()),
    }
    note = f"{chat.model} on {chat.host} was shown each picture and answered without any training on this data."
    if answered.is_synthetic().any():
        note += " The faces are drawn by a program, not photographs."
    written = {
        **{f"test/{name}": value for name, value in figures.items()},
        "baseline/model": chat.model,
        "baseline/label_set": labels.name,
        "baseline/size": settings.size,
        "baseline/prompts": {name: prompt_version("explllm.engine", name) for name in PROMPTS},
        "training_data_note": note,
        "explllm": __version__,
    }
    with atomic_write(folder / METRICS_FILE) as temporary:
        temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    Manifest(labeled, answered.root).write(folder / PREDICTIONS_FILE)
    print_metrics(console, written, "test")
    console.print(f"among the classes of {labels.name}: {', '.join(labels)}", highlight=False)
    console.print(f"run: {folder} (for `explllm compare`)", highlight=False)
