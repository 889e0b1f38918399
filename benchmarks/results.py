"""Result files of the benchmarks, and the documentation page made from them: python benchmarks/results.py.

A result file contains the environment and, for each job, the samples of explllm and of the other side. Apart from the
introduction, the page and its plots contain nothing else, which lets a test compare them with the files.
"""

import io
import json
import os
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from host import environment

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs/pages/benchmarks.md"
BENCHMARKS = ("train_step", "train_memory", "recognize", "explain", "startup", "data_loading")


def save(name: str, title: str, unit: str, other: str, rows: dict[str, dict[str, list[float]]], **notes: Any) -> None:
    """Write a result file.

    Args:
        name: The benchmark's name.
        title: Heading of its section.
        unit: Unit of all samples.
        other: Name of the other side.
        rows: For each job, the samples of ``ours`` and ``other``.
        **notes: Further values to record.
    """
    record = {"title": title, "unit": unit, "other": other, "environment": environment(), **notes}
    record["load"] = [round(value, 1) for value in os.getloadavg()]
    record["rows"] = {
        job: {side: [round(x, 2) for x in xs] for side, xs in sides.items()} for job, sides in rows.items()
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """Return a result as a Markdown table: medians with quartiles, and the ratio other / ours."""
    unit, other = record["unit"], record["other"]
    lines = [f"| | explllm, {unit} | {other}, {unit} | ratio |", "|---|---|---|---|"]
    for job, sides in record["rows"].items():
        ratio = median(sides["other"]) / median(sides["ours"])
        lines.append(f"| {job} | {_spread(sides['ours'])} | {_spread(sides['other'])} | {ratio:.2f} |")
    return "\n".join(lines)


def page() -> dict[Path, str]:
    """Return the documentation page and its plots by path, generated from the result files."""
    sections = ["# Benchmarks", "", INTRODUCTION]
    files: dict[Path, str] = {}
    for name in BENCHMARKS:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        load = ", ".join(map(str, record["load"]))
        sections += ["", f"## {record['title']}", "", f"![{record['title']}](images/benchmark_{name}.svg)", ""]
        sections += [
            table(record),
            "",
            f"`python benchmarks/{name}.py`: {record['environment']}. Load averages {load}.",
        ]
        files[PAGE.parent / f"images/benchmark_{name}.svg"] = plot(record)
    return files | {PAGE: "\n".join(sections) + "\n"}


def plot(record: dict[str, Any]) -> str:
    """Return an SVG of medians with quartiles as bars. The same results always give the same text."""
    import matplotlib
    from matplotlib.figure import Figure

    # Fixed ids instead of random ones, and text instead of paths.
    with matplotlib.rc_context({"svg.hashsalt": "explllm", "svg.fonttype": "none"}):
        jobs = list(record["rows"])
        figure = Figure(figsize=(7, 0.6 + 0.55 * len(jobs)), layout="constrained")
        axes = figure.subplots()
        for place, (side, label) in enumerate((("ours", "explllm"), ("other", record["other"]))):
            middle = [median(record["rows"][job][side]) for job in jobs]
            spread = [quantiles(record["rows"][job][side], n=4) for job in jobs]
            errors = [[m - q[0] for m, q in zip(middle, spread, strict=True)]]
            errors += [[q[2] - m for m, q in zip(middle, spread, strict=True)]]
            positions = [number + 0.4 * place for number in range(len(jobs))]
            bars = axes.barh(positions, middle, 0.36, xerr=errors, label=label, color=("#3366aa", "#bbbbbb")[place])
            axes.bar_label(bars, [f"{value:.1f}" for value in middle], padding=3)
        axes.set_yticks([number + 0.2 for number in range(len(jobs))], jobs)
        axes.invert_yaxis()
        axes.set_xlabel(record["unit"])
        axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def main() -> None:
    """Write the page and the plots."""
    for path, text in page().items():
        path.write_text(text, encoding="utf-8")
        print(path)


def _spread(samples: list[float]) -> str:
    low, middle, high = quantiles(samples, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


INTRODUCTION = """Each script alternates between explllm and the other side named in its table. The tables give
medians with quartiles; a ratio above 1 means that explllm is faster or needs less memory. Unless a row names another
model, both sides use a language model of width 256 with 4 layers and a vocabulary of 32,000, a DINOv2 encoder of width
128 with 4 layers, LoRA in both, and 256 image tokens. The start of training uses `demo.yaml`, and data loading is
compared with explllm's own training step. `make bench` runs all scripts and generates this page."""

if __name__ == "__main__":
    main()
