"""FEABench: compare models on expressions, action units and reasoning.

  explllm bench fea bp4d.parquet runs/feallm runs/rafdb -o bench
  explllm bench fea bp4d.parquet runs/feallm gpt-4o.parquet -o bench

A model is a run folder, a model's folder, or a table of answers. `explllm baseline` makes such a table with a model
behind an OpenAI-compatible server; no other command sends images, and that one only with --send_images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from explllm.commands.outputs import as_file_name, check_root
from explllm.commands.parser import Option
from explllm.commands.pictures import check_device
from explllm.core.files import atomic_write, check_writable
from explllm.explanations.grounding import STRONG


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
    answers "active" and "not active", with a threshold per unit chosen on the rows of the split `val`. Thresholds are
    0.5 without such rows. The report says whether a model was trained on the same data set. A model that was trained on
    a test image or on a person in the test faces is rejected.

      explllm bench fea faces.parquet runs/feallm runs/expllm -o bench

    Args:
        manifest: The faces, with the column `split`.
        models: Run folders, model folders or tables of answers.
        out: The folder for bench.html, bench.json and the answers of each model.
        root: Folder that image paths are relative to.
        split: The rows to test on.
        sample: At most this many of the rows, drawn at random with a fixed seed.
        active_from: Minimum FEAFA intensity of an active unit.
        judge: A registered judge that compares reasoning with the chains of thought of the manifest.
        batch_size: Faces per batch.
        max_new_tokens: Maximum length of an answer, in tokens.
        device: Device of the models, such as cuda; by default the CPU.
        allow_leaks: Also report models that were trained on test faces; the report states how many.

    Raises:
        InputError: If a model or table cannot be read, or a model was trained on test faces.
    """
    from rich.console import Console

    from explllm.core.manifest import Manifest
    from explllm.metrics.fea_bench import bench_metrics, unit_truth
    from explllm.report.bench import BenchRow, print_bench, write_bench
    from explllm.training import bench

    check_root(root)
    check_device(device)
    check_writable(out / "bench.json")
    table = Manifest.read(manifest, root)
    test = table.select(split=split)
    if sample is not None:
        test = test.sample(sample)
    truth = unit_truth(test, active_from)
    validation = table.select(split="val") if (table.frame["split"] == "val").any() else None
    rows = []
    for path in models:
        contestant = bench.Contestant.open(path, device)
        found = None
        if contestant.training is not None:
            found = bench.leaks(contestant.training, test) if allow_leaks else bench.check_leaks(contestant, test)
        given = None
        if contestant.model is not None:
            units = () if truth is None else truth.names
            answers = bench.ask_model(contestant.model, test, units, batch_size, max_new_tokens)
            if validation is not None and units:
                given = (validation, bench.ask_model(contestant.model, validation, units, batch_size, texts=False))
        else:
            assert contestant.answers is not None
            answers = bench.aligned_answers(contestant.answers, test)
        metrics = bench_metrics(test, answers, bench.possible_labels(contestant, test), given, active_from, judge)
        rows.append(BenchRow(contestant.name, bench.data_relation(contestant, test), found, metrics))
        _write_answers(answers, test.frame["image"].tolist(), out / f"{as_file_name(contestant.name)}.jsonl")
        del contestant
    report: dict[str, Any] = {"manifest": str(manifest), "split": split, "faces": len(test), "active_from": active_from}
    with atomic_write(out / "bench.json") as temporary:
        models_report = [{"name": row.name, "data": row.relation, "leaks": row.leaks, **row.metrics} for row in rows]
        temporary.write_text(json.dumps({**report, "models": models_report}, indent=2) + "\n", encoding="utf-8")
    write_bench(rows, report, test.drawn_note, out / "bench.html")
    console = Console(highlight=False)
    print_bench(console, rows)
    console.print(f"report: {out / 'bench.html'}", soft_wrap=True, markup=False)


def _write_answers(answers: Any, images: list[str], path: Path) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for image, row in zip(images, answers.to_dict("records"), strict=True):
            stream.write(json.dumps({"image": image, **row}) + "\n")


COMMANDS: dict[str, Callable[..., int | None]] = {"fea": fea}
