"""FEABench: compare models on expressions, action units and reasoning.

  explllm bench fea bp4d.parquet runs/feallm runs/rafdb -o bench
  explllm bench fea bp4d.parquet runs/feallm gpt-4o.parquet -o bench

Each model is given as a run folder, a model folder, or a table of answers. `explllm baseline` writes such a table for a
model behind an OpenAI-compatible server. `baseline` is the only command that sends images, and it requires
--send_images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from explllm.commands.outputs import as_file_name, check_root
from explllm.commands.parser import Option
from explllm.commands.pictures import check_device
from explllm.core.files import check_writable
from explllm.explanations.grounding import STRONG

if TYPE_CHECKING:
    from explllm.training.bench import Contestant


def fea(
    manifest: Path,
    models: list[str],
    *,
    out: Path,
    root: Annotated[Path | None, Option(default="the manifest's")] = None,
    split: str = "test",
    sample: Annotated[int | None, Option(minimum=1)] = None,
    active_from: float = STRONG,
    judge: str = "offline",
    batch_size: Annotated[int, Option(minimum=1)] = 16,
    max_new_tokens: Annotated[int, Option(minimum=1)] = 320,
    device: str | None = None,
    allow_leaks: bool = False,
) -> None:
    """Compare models on the test faces of a manifest, in one report.

    The manifest has expressions, action units or both: FACS labels of BP4D or DISFA (`explllm data`), or FEAFA
    intensities. Action units are read from the model's text with a lexicon and, separately, from the likelihood of the
    answers "active" and "not active". The threshold of each unit is chosen on the rows of the `val` split that share
    neither an image nor a person with the test faces; if none of these rows shows the unit, or with --split val, it is
    0.5. The report says whether a model was trained on the same data set, according to the training faces recorded in
    its run folder. Without --allow_leaks, the command rejects models that were trained on a test image, or on a person
    who appears in the test faces.

      explllm bench fea faces.parquet runs/feallm runs/expllm -o bench
      explllm bench fea bp4d.parquet runs/feallm --root BP4D -o bench

    Args:
        manifest: The faces, with the column `split`.
        models: Run folders, model folders or tables of answers.
        out: The folder for bench.html and bench.json, both updated after each model, and for the answers of each model.
        root: Folder that image paths are relative to.
        split: The split to test on.
        sample: Maximum number of rows, drawn at random with a fixed seed.
        active_from: Minimum FEAFA intensity of an active unit.
        judge: A registered judge that compares reasoning with the chains of thought of the manifest.
        batch_size: Faces per batch.
        max_new_tokens: Maximum length of an answer, in tokens.
        device: Device to run the models on, such as cuda; by default the CPU.
        allow_leaks: Also report models that were trained on test faces; the report states how many.

    Raises:
        InputError: If a model, table or image does not exist or cannot be read, or a model was trained on test
            faces and `allow_leaks` is false.
    """
    from rich.console import Console

    from explllm.core.manifest import Manifest
    from explllm.metrics.fea_bench import bench_metrics, unit_truth
    from explllm.report.bench import BenchRow, print_bench, write_bench
    from explllm.training import bench
    from explllm.training.leaks import ComparedFaces

    check_root(root)
    check_device(device)
    check_writable(out / "bench.json")
    table = Manifest.read(manifest, root)
    test = table.select(split=split)
    if sample is not None:
        test = test.sample(sample)
    truth = unit_truth(test, active_from)
    units = () if truth is None else truth.names
    # Check everything before the first model runs, because generating the answers can take hours.
    contestants = [bench.Contestant.open(path, test) for path in models]
    names = _names(contestants, models, out)
    contestants = [replace(one, name=name) for one, name in zip(contestants, names, strict=True)]
    faces = ComparedFaces(test, table)
    checks = [contestant.check(faces, allow_leaks) for contestant in contestants]
    asks_models = any(contestant.folder is not None for contestant in contestants)
    validation, left_out = bench.validation_faces(table, split, faces) if asks_models and units else (None, 0)
    if asks_models:
        bench.check_images(test, validation)
    report: dict[str, Any] = {"manifest": str(manifest), "split": split, "faces": len(test), "active_from": active_from}
    report["validation"] = {"faces": 0 if validation is None else len(validation), "left_out": left_out}
    rows: list[BenchRow] = []
    for contestant, check in zip(contestants, checks, strict=True):
        answers, given = contestant.ask(test, validation, units, device, batch_size, max_new_tokens)
        if contestant.folder is not None:
            bench.write_answers(answers, test, _answers_file(contestant.name, out))
        metrics = bench_metrics(test, answers, contestant.labels, given, active_from, judge)
        rows.append(BenchRow(contestant.name, check.relation, check.leaks, check.unknown, metrics))
        report["pending"] = [other.name for other in contestants[len(rows) :]]
        write_bench(rows, report, test.drawn_note, out)
    console = Console(highlight=False)
    print_bench(console, rows)
    console.print(f"report: {out / 'bench.html'}", soft_wrap=True, markup=False)


def _names(contestants: Sequence[Contestant], models: Sequence[str], out: Path) -> list[str]:
    """Return a name for each model, so that no answer file overwrites another one or an input table."""

    def key(path: Path) -> str:
        return str(path.resolve()).lower()

    names: list[str] = []
    given, taken = {key(Path(path)) for path in models}, set[str]()
    for contestant in contestants:
        # An input table keeps its name, because no file is written for it.
        refused = taken if contestant.folder is None else taken | given
        candidates = chain([contestant.name], (f"{contestant.name}-{number}" for number in count(2)))
        names.append(next(name for name in candidates if key(_answers_file(name, out)) not in refused))
        taken.add(key(_answers_file(names[-1], out)))
    return names


def _answers_file(name: str, out: Path) -> Path:
    return out / f"{as_file_name(name)}.jsonl"


COMMANDS: dict[str, Callable[..., int | None]] = {"fea": fea}
