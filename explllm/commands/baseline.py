"""The command ``explllm baseline``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from explllm import __version__
from explllm.commands.outputs import as_file_name, check_ending, check_root, run_folder
from explllm.commands.parser import Option
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE, atomic_write, check_writable
from explllm.engine.settings import BaselineSettings
from explllm.llm.settings import ChatSettings

if TYPE_CHECKING:
    from explllm.core.expressions import LabelSet
    from explllm.core.manifest import Manifest
    from explllm.engine.runner import RunResult
    from explllm.llm.client import ChatClient


def baseline(
    manifest: Path,
    *,
    send_images: bool = False,
    estimate: bool = False,
    out: Annotated[Path | None, Option(default="MANIFEST_MODEL next to MANIFEST")] = None,
    overwrite: bool = False,
    root: Annotated[Path | None, Option(default="the manifest's")] = None,
    run_dir: Annotated[Path | None, Option(default="OUT with the suffix .run")] = None,
    split: str | None = None,
    sample: Annotated[int | None, Option(minimum=1)] = None,
    seed: Annotated[int, Option(minimum=0)] = 0,
    label_set: str | None = None,
    redo: Literal["failed"] | None = None,
    settings: Annotated[BaselineSettings, Option(skip=("labels",))],
    chat: ChatSettings,
) -> int:
    """Ask a multimodal model about every face of a manifest.

    The model sees each face and answers with the expression, then with a chain of thought in the paper's form (GPT-4o
    in Table III). The model is neither trained nor corrected: its first answer counts.

      explllm baseline faces.parquet --model gpt-4o --estimate
      explllm baseline faces.parquet --model gpt-4o --send_images --max_cost 5
      explllm score faces_gpt-4o.parquet --reference cot.parquet --judge gpt-4o
      explllm compare runs/rafdb faces_gpt-4o.run

    Pictures of faces are personal data and are sent to the server at --base_url (by default OpenAI's), so the command
    requires --send_images. Each face is cropped to its box with a margin, rotated upright, and sent as a JPEG of at
    most --size pixels without metadata. The server receives no file names and no true labels. The ledger records
    questions, answers, costs and a hash of each picture, never the picture itself.

    The written manifest has the columns `predicted`, `answer`, `label_set`, `unreadable`, `cot`, `cot_source`,
    `cot_status`, `cot_reason` and `cot_cost`. An answer that names no expression leaves `predicted` empty and counts as
    wrong. For a row without an answer, `unreadable` states the reason, and the row is not scored. OUT.run next to the
    manifest contains the ledger and, after a complete run on labeled faces, metrics.json and predictions.parquet.

    The same command resumes a stopped run: no answer is paid for twice, and the model is asked again about pictures
    that have changed. Rows in which `explllm faces` found no face are left out. `explllm cot status` and `explllm cot
    show` work on OUT too. The exit status is 1 if a row failed or the budget ran out.

    Args:
        manifest: A manifest of images; if it has expressions, metrics are computed.
        send_images: Confirm that the pictures may leave this machine.
        estimate: Print the number of calls and tokens and the cost; send nothing.
        out: The manifest to write (.parquet, .csv, .jsonl).
        overwrite: Replace an existing OUT, or the run folder of another run.
        root: Folder that image paths are relative to.
        run_dir: Folder for the ledger and the metrics.
        split: Only rows of this split, such as test.
        sample: Number of rows to draw at random (the paper uses 100).
        seed: Seed of the sample.
        label_set: The classes to choose from, such as rafdb or affectnet7; rows with other labels are left out.
            (default: the seven basic expressions; all eight if a row is labeled Contempt or no row is labeled)
        redo: `failed` discards the recorded answers of failed rows and asks again. Without it, only questions with
            transient failures or truncated answers are asked again, and a question is given up after three
            runs with truncated answers.
        settings: Image size, margin and answer length.
        chat: Model, server, limits and prices.

    Raises:
        InputError: If --send_images is missing, the manifest lacks a required column, OUT or another run's metrics
            would be overwritten, or the server refuses the run (no picture has been sent in these cases); or if the
            server later rejects the key or the model, or the credit runs out (the answers paid for so far are written).
        KeyboardInterrupt: After Ctrl-C, once all requests in flight have finished and their answers are written.
    """
    from explllm.engine.baseline import (
        BaselineStatus,
        ask_about,
        choose_label_set,
        face_images,
        skipped_images,
        with_answers,
    )
    from explllm.engine.estimate import print_baseline_estimate
    from explllm.engine.progress import BuildIdentity, ProgressTracker, print_summary
    from explllm.engine.runner import run_all, run_with_client

    if not chat.model:
        raise ConfigError("no model given", remedy="Pass --model NAME, such as gpt-4o.")
    check_root(root)
    table = _select(manifest, root, split, sample, seed)
    labels = choose_label_set(table, label_set)
    skipped = skipped_images(table, labels)
    faces = list(face_images(table, labels))
    if estimate:
        # Estimating the cost needs no API key.
        print_baseline_estimate(len(faces), chat.model, labels, replace(chat, max_cost=None).price())
        return 0
    if not send_images:
        raise ConfigError(
            f"{len(faces):,} pictures of faces would be sent to {chat.host}: they are personal data, and nothing "
            "leaves this machine without your consent",
            remedy="Pass --send_images if that server may receive these pictures; --estimate prints the cost first.",
        )
    out = out or manifest.with_name(f"{manifest.stem}_{as_file_name(chat.model)}{manifest.suffix}")
    check_ending(out)
    if not any(face.image.is_file() for _, face in faces):
        raise MissingPathError(
            f"none of the {len(faces):,} images exists; the first is {faces[0][1].image}",
            remedy="Pass the folder that image paths are relative to as --root.",
        )
    settings = replace(settings, labels=labels)
    folder = run_folder(out, run_dir)
    # The model's name alone is ambiguous: `explllm cot build` may have written this OUT with the same model.
    source = f"{chat.model} as a baseline"
    identity = BuildIdentity(manifest, out, source)
    identity.check_overwrite(folder, overwrite)
    _check_folder(folder, source, overwrite)
    check_writable(folder / METRICS_FILE)
    table.check_writable(out)
    tracker = ProgressTracker(folder, len(faces), BaselineStatus, f"asking {chat.model}", identity)

    async def work(client: ChatClient) -> RunResult:
        # These files belong to an earlier run, perhaps on other faces. They are kept until the server has been checked.
        for name in (METRICS_FILE, PREDICTIONS_FILE):
            (folder / name).unlink(missing_ok=True)
        return await run_all(
            faces,
            len(faces),
            lambda face: ask_about(face, client.ask, settings),
            chat.concurrency,
            tracker.update,
            client.ledger,
            redo,
        )

    with identity.lock():
        result = run_with_client(chat, folder, tracker, work)
        with tracker.saving(result):
            answered = with_answers(table, result.outcomes, chat.model, labels)
            answered.write(out)
    print_summary(result, BaselineStatus, skipped, out)
    tracker.raise_if_stopped(result)
    if not result.pending:
        _write_test(answered, labels, chat, settings, folder)
    return result.exit_status


def _select(path: Path, root: Path | None, split: str | None, sample: int | None, seed: int) -> Manifest:
    """Read the manifest and keep the requested rows."""
    from explllm.core.manifest import Manifest

    manifest = Manifest.read(path, root)
    if split is not None:
        manifest = manifest.select(split=split)
    return manifest if sample is None else manifest.sample(sample, seed)


def _check_folder(folder: Path, source: str, overwrite: bool) -> None:
    """Reject a folder with files but no ledger; unless `overwrite`, also one of another model or command."""
    from explllm.engine.progress import read_progress
    from explllm.engine.runner import LEDGER

    if folder.is_dir() and any(folder.iterdir()) and not (folder / LEDGER).is_file():
        raise ConfigError(
            "the run folder contains files, but not those of a baseline",
            where=folder,
            remedy="Choose another --run_dir.",
        )
    earlier = read_progress(folder).get("source", source)
    if earlier != source and not overwrite:
        raise ConfigError(
            f"the run folder belongs to {earlier}, not to {source}",
            where=folder,
            remedy="Choose another --run_dir, or pass --overwrite.",
        )


def _write_test(
    answered: Manifest, labels: LabelSet, chat: ChatSettings, settings: BaselineSettings, folder: Path
) -> None:
    """Write metrics and predictions as `explllm test` does, and print the metrics."""
    from rich.console import Console

    from explllm.core.manifest import Manifest
    from explllm.engine.baseline import PROMPTS
    from explllm.llm.prompt import prompt_version
    from explllm.metrics.answers import Answers
    from explllm.metrics.evaluation import recognition_metrics
    from explllm.report.terminal import print_metrics

    console = Console(soft_wrap=True)
    table = answered.frame
    labeled = table[table["expression"].notna()] if "expression" in table else table.iloc[:0]
    if labeled.empty or not (labeled["unreadable"].isna() & labeled["answer"].notna()).any():
        console.print("no metrics: no answered face is labeled")
        return
    answers = Answers.from_table(labeled, tuple(labels), unknown_labels="leave_out")
    unreadable = table.loc[table["unreadable"].notna(), "image"].tolist()
    metrics: dict[str, Any] = {**recognition_metrics(answers), "unreadable": unreadable}
    metrics["root"] = str(answered.root.resolve())
    note = f"{chat.model} on {chat.host} saw each picture and answered without training on this data."
    note = f"{note} {answered.drawn_note}".rstrip()
    written = {
        **{f"test/{name}": value for name, value in metrics.items()},
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
