"""The command ``explllm describe``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from explllm.commands.parser import Option

if TYPE_CHECKING:
    from explllm.training.footprint import Description

PAPERS_TRAINABLE = 25_960_448
"""Trainable weights of the paper's setup: 786,432 of the encoder's LoRA, 4,194,304 of the language model's LoRA, and
20,979,712 of the projector."""


def describe(
    *fit_options: str,
    config: str,
    images: Annotated[int | None, Option(minimum=1, default="counted, otherwise as published")] = None,
    gpus: Annotated[int, Option(minimum=1, maximum=100_000)] = 8,
    as_json: Annotated[bool, Option("json")] = False,
) -> None:
    """Describe a configuration without downloading any weights.

    The description covers parts, trainable weights, optimizer steps, warm-up and GPU memory. All options of `fit` are
    accepted too.

      explllm describe --config rafdb.yaml

    Args:
        *fit_options: Options of ``fit``.
        config: A configuration, as for `fit`.
        images: Number of training images.
        gpus: Number of GPUs that share the work.
        as_json: Print one JSON object.

    Raises:
        InputError: If the configuration has an error.
    """
    from explllm.commands.lightning_cli import parse
    from explllm.training.footprint import describe_configuration

    result = describe_configuration(parse("fit", ["--config", config, *fit_options]), images, gpus)
    _print(result, as_json)


def _print(result: Description, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from explllm.core.console import print_table

    if as_json:
        values: dict[str, Any] = {**asdict(result), "trainable": result.trainable}
        values["memory"] = [
            {**asdict(row), "total": row.total, "gpu": row.gpu, "suggested_micro_batch": row.suggested_micro_batch}
            for row in result.memory
        ]
        if (evaluation := result.evaluation) is not None:
            values["evaluation"] |= {"total": evaluation.total, "gpu": evaluation.gpu}
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    console = Console(highlight=False)
    parts = Table(title="parts", title_justify="left")
    for column in ("part", "architecture", "train"):
        parts.add_column(column)
    for column in ("weights", "trainable"):
        parts.add_column(column, justify="right")
    for part in result.parts:
        parts.add_row(part.name, part.architecture, part.train, f"{part.weights:,}", f"{part.trainable:,}")
    parts.add_section()
    parts.add_row("total", "", "", f"{sum(part.weights for part in result.parts):,}", f"{result.trainable:,}")
    print_table(console, parts)
    if result.trainable == PAPERS_TRAINABLE:
        console.print(
            "25.96 M weights are trainable. The paper states 8.7 M (Section III-C); its released code trains 25.96 M"
            " too. 8.7 M would be the count with a one-layer projector if M meant 2^20."
        )
    console.print(f"\nimage tokens     {result.image_tokens}")
    if result.images is None:
        console.print(f"training images  unknown: {result.images_source}; set it with --images N")
    else:
        console.print(f"training images  {result.images:,} ({result.images_source})")
        if result.memory:
            console.print(f"conversations    {result.conversations:,} per epoch")
        console.print(f"optimizer steps  {result.steps:,}")
        console.print(f"warm-up          {result.warmup:,} steps")
    if not result.memory:
        return
    memory = Table(
        title=f"\nGB on each of {result.gpus} GPUs in training, micro-batches of {result.micro_batch}, "
        f"{result.sequence} tokens (computed without a GPU)",
        title_justify="left",
    )
    memory.add_column("strategy")
    for column in ("frozen", "trained", "activations", "other", "total"):
        memory.add_column(column, justify="right")
    memory.add_column("smallest GPU")
    memory.add_column("its micro-batch", justify="right")
    for row in result.memory:
        gigabytes = (row.frozen, row.trained, row.activations, row.other, row.total)
        gpu = "none" if row.gpu is None else f"{row.gpu} GB"
        largest = "-" if row.suggested_micro_batch is None else str(row.suggested_micro_batch)
        memory.add_row(row.strategy, *(f"{value:.1f}" for value in gigabytes), gpu, largest)
    print_table(console, memory)
    if (evaluation := result.evaluation) is not None:
        gpu = "none" if evaluation.gpu is None else f"{evaluation.gpu} GB"
        console.print(
            f"\ntest             {evaluation.total:.1f} GB on each GPU: weights {evaluation.weights:.1f}, recognition "
            f"of {evaluation.eval_batch_size} faces {evaluation.recognition:.1f} or explanation of "
            f"{evaluation.explanation_batch_size} faces {evaluation.explanation:.1f}, other {evaluation.other:.1f}; "
            f"smallest GPU {gpu}",
            soft_wrap=True,
        )
