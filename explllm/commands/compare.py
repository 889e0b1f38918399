"""The command ``explllm compare``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from explllm.commands.parser import Option


def compare(
    runs: list[str],
    *,
    out: Annotated[Path | None, Option(default="compare-RUN-RUN next to the first run")] = None,
    as_json: Annotated[bool, Option("json")] = False,
) -> None:
    """Compare tested runs: metrics, paired significance tests, and the faces on which their answers differ.

      explllm compare runs/rafdb runs/no_cot -o comparison

    Args:
        runs: Two or more run folders with the results of `explllm test` or `explllm baseline`.
        out: The folder for compare.html and compare.csv.
        as_json: Print one JSON object.

    Raises:
        InputError: If a run has no test results, or the runs were tested on different faces or against different
            labels; the message names the difference.
    """
    from rich.console import Console

    from explllm.metrics.comparison import compare_runs, read_runs
    from explllm.report.comparison import comparison_record, print_comparison, write_comparison

    comparison = compare_runs(read_runs(runs))
    names = [Path(run.name).name for run in comparison.runs]
    folder = out or Path(runs[0]).parent / "-".join(["compare", *names])
    write_comparison(comparison, folder)
    files = {"page": str(folder / "compare.html"), "table": str(folder / "compare.csv")}
    if as_json:
        sys.stdout.write(json.dumps({**comparison_record(comparison), **files}, indent=2) + "\n")
        return
    console = Console()
    print_comparison(console, comparison)
    for name, file in files.items():
        console.print(f"{name}: {file}", soft_wrap=True, markup=False)
