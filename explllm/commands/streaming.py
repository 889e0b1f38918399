"""What `explllm faces` and `explllm aus` share: their options, a resumable pass over the images, the summary."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from explllm.commands.outputs import check_new_manifest, check_root
from explllm.commands.parser import Option

if TYPE_CHECKING:
    from explllm.core.manifest import Manifest
    from explllm.faces.jobs import Result


@dataclass(frozen=True)
class StreamingOptions:
    """How a manifest's images are read and processed."""

    root: Annotated[Path | None, Option(default="the manifest's")] = None
    """Folder that image paths are relative to."""
    overwrite: bool = False
    """Replace an existing OUT."""
    workers: Annotated[int, Option(minimum=1)] = 1
    """Worker processes."""
    max_bad: Annotated[int | None, Option(minimum=0, default="never")] = None
    """Stop after more than N unusable images."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ONNX models run."""

    @property
    def threads(self) -> int:
        """CPU threads of one worker's model: the workers share the cores."""
        from explllm.core.cpu import available_cpus

        return max(1, available_cpus() // self.workers)


def read_manifest(manifest: Path, out: Path, options: StreamingOptions) -> Manifest:
    """Check the output before any work, and read the manifest."""
    from explllm.core.manifest import Manifest

    check_new_manifest(out, options.overwrite)
    check_root(options.root)
    return Manifest.read(manifest, options.root)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines to stderr."""
    for line in lines:
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def process(
    items: Sequence[Any],
    work: Any,
    settings: dict[str, Any],
    manifest: Path,
    out: Path,
    options: StreamingOptions,
    title: str,
    chunk: int = 1,
) -> dict[int, Result]:
    """Process all items, and return their results; a second run resumes from OUT.partial.jsonl.

    Args:
        items: The images.
        work: What to do with them, as for `explllm.faces.jobs.run_job`.
        settings: Everything that the results depend on besides manifest and root.
        manifest: The manifest that is read.
        out: The manifest to write.
        options: Workers and limits.
        title: What the progress bar shows.
        chunk: Images that a worker takes at a time.

    Returns:
        The results by row.
    """
    from explllm.faces.jobs import JobOptions, file_sha256, partial_path, read_results, run_job

    root = None if options.root is None else str(options.root.resolve())
    settings = {"command": title, "manifest": file_sha256(manifest), "root": root, **settings}
    partial = partial_path(out)
    run_job(items, work, JobOptions(partial, settings, title, options.workers, chunk, options.max_bad))
    return read_results(partial)


def print_counts(out: Path, manifest: Manifest, column: str, results: dict[int, Result], good: Sequence[str]) -> None:
    """List the images that could not be used, and count the rows by status."""
    bad = [result["bad"] for _, result in sorted(results.items()) if result["bad"] is not None]
    for reason in bad[:10]:
        sys.stderr.write(f"bad: {reason}\n")
    if len(bad) > 10:
        sys.stderr.write(f"bad: {len(bad) - 10} more; see the column {column}\n")
    if bad and len(bad) == len(results):
        sys.stderr.write(f"no image could be used: are the paths relative to {manifest.root}? If not, pass --root\n")
    counts = Counter(manifest.frame[column])
    ordered = [*(name for name in good if name in counts), *sorted(name for name in counts if name not in good)]
    for name in ordered:
        sys.stdout.write(f"{counts[name]:9,}  {name}\n")
    sys.stdout.write(f"{len(manifest):9,}  rows in {out}; image paths are relative to {manifest.root}\n")


def finish(out: Path, results: dict[int, Result]) -> int:
    """Remove the partial results; return the exit status, 1 if an image could not be used."""
    from explllm.faces.jobs import partial_path

    partial_path(out).unlink()
    return int(any(result["bad"] is not None for result in results.values()))
