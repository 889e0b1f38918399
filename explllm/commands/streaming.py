"""The resumable pass over a manifest's images for `explllm faces` and `explllm aus`, and the estimator options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from explllm.commands.outputs import check_new_manifest, check_root
from explllm.commands.parser import Option
from explllm.faces.estimators import estimator_options

if TYPE_CHECKING:
    from explllm.core.manifest_chunks import ManifestFile
    from explllm.faces.table import Summary, TableTask

    EstimatorOptions = Any
else:
    EstimatorOptions = estimator_options()


@dataclass(frozen=True)
class StreamingOptions:
    """How a manifest's images are read and processed."""

    root: Annotated[Path | None, Option(default="the manifest's")] = None
    """Folder that image paths are relative to."""
    overwrite: bool = False
    """Replace an existing OUT."""
    workers: Annotated[int, Option(minimum=1, maximum=256)] = 1
    """Number of worker processes."""
    max_bad: Annotated[int | None, Option(minimum=0, default="never")] = None
    """Stop after more than N unusable images."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ONNX models run."""

    max_pixels: Annotated[int | None, Option(minimum=1, default="179 million")] = None
    """Maximum number of pixels of an image."""
    threads: Annotated[int | None, Option(minimum=1, maximum=1024, default="available cores divided by workers")] = None
    """CPU threads of each worker's model."""

    @property
    def threads_per_worker(self) -> int:
        """CPU threads of one worker's model."""
        from explllm.core.cpu import available_cpus

        return self.threads or max(1, available_cpus() // self.workers)


def open_manifest(manifest: Path, out: Path, options: StreamingOptions) -> ManifestFile:
    """Check the output path before any work is done, and open the manifest."""
    from explllm.core.manifest_chunks import ManifestFile

    check_new_manifest(out, options.overwrite)
    check_root(options.root)
    source = ManifestFile(manifest, options.root)
    source.check_writable(out)
    return source


def print_lines(lines: Sequence[str]) -> None:
    """Print lines to stderr."""
    print(*lines, sep="\n", end="\n" * bool(lines), file=sys.stderr, flush=True)


def process(
    source: ManifestFile, out: Path, task: TableTask, options: StreamingOptions, good: Sequence[str]
) -> Summary:
    """Run a task on a manifest, list the unusable images, and print row counts by status, `good` ones first."""
    from explllm.faces.table import run_on_manifest

    summary = run_on_manifest(source, out, task, workers=options.workers, max_bad=options.max_bad)
    print_lines([f"bad: {reason}" for reason in summary.reasons])
    if (more := summary.bad - len(summary.reasons)) > 0:
        print_lines([f"bad: {more} more; see the column {task.status_column}"])
    if summary.bad and summary.bad == summary.processed:
        print_lines([f"no image could be used: are the paths relative to {source.root}? If not, pass --root"])
    counts = summary.counts
    for name in [*(name for name in good if name in counts), *sorted(name for name in counts if name not in good)]:
        sys.stdout.write(f"{counts[name]:9,}  {name}\n")
    sys.stdout.write(f"{summary.rows_out:9,}  rows in {out}; image paths are relative to {source.root}\n")
    return summary
