"""Models that can be opened, and published weights to download.

  explllm models
  explllm models get scrfd
  explllm models get released

Downloads go to ~/.cache/explllm; set the environment variable EXPLLLM_CACHE to use another folder.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from explllm.commands.parser import Option
from explllm.core.errors import MissingPathError

DEFAULT = "list"
"""The subcommand that runs if none is given."""

RELEASED = "released"


def list_models(*, runs: Path = Path("runs"), as_json: Annotated[bool, Option("json")] = False) -> None:
    """List the models that can be opened, and the published weights with the command that downloads each.

      explllm models
      explllm models list --runs /data/runs --json

    Args:
        runs: Folder to search, with its subfolders, for trained models (RUN/model).
        as_json: Print one JSON object per line.
    """
    rows = list(_rows(runs))
    if as_json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
        return
    from rich.console import Console
    from rich.table import Table

    from explllm.core.console import print_table

    table = Table()
    for column in ("name", "what", "command"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["name"], row["what"], row["use"])
    print_table(Console(highlight=False), table)


def get(
    name: Literal["released", "scrfd", "landmarker"],
    *,
    checkpoint: str = "RAFDB",
    keep: bool = False,
) -> None:
    """Download published weights into the cache and check them.

    `released` is the paper authors' ExpLLM on the Hugging Face hub: about 15 GB to download, and as much disk space
    again for the conversion that follows. `scrfd` is insightface's face detector (16 MB). `landmarker` is MediaPipe's
    face landmarker, which measures action units (4 MB).

      explllm models get scrfd
      explllm models get released --checkpoint AffectNet

    An interrupted download resumes when the command runs again. Set HF_ENDPOINT to use another hub, and EXPLLLM_MIRROR
    to use another host for the other files.

    Args:
        name: What to download.
        checkpoint: For `released`: part of the name of a checkpoint folder in the authors' repository; case is ignored.
        keep: Keep the downloaded files of `released` after the conversion.

    Raises:
        InputError: If the download fails, a checksum differs, there is too little disk space, or --checkpoint does not
            match exactly one of several checkpoints.
    """
    from explllm.models import known

    if name == RELEASED:
        _get_released(checkpoint, keep)
        return
    existing = known.cached(name)
    with _progress() as progress:
        path = existing or known.get_file(name, progress)
    entry = known.KNOWN_FILES[name]
    sys.stdout.write(f"{'exists ' if existing else 'wrote  '} {path}\nlicense {entry.license}\n")
    use = "explllm explain photograph.jpg" if name == "scrfd" else f"explllm explain face.jpg --landmarker {path}"
    sys.stdout.write(f"try     {use}\n")


COMMANDS: dict[str, Callable[..., int | None]] = {"list": list_models, "get": get}


def _rows(runs: Path) -> Iterator[dict[str, Any]]:
    from explllm.models import known

    try:
        shipped = known.shipped_model()
        yield _row(known.SHIPPED, "model", "comes with explllm", shipped, "explllm explain face.jpg")
    except MissingPathError:
        pass
    for folder in known.run_models(runs):
        name = str(folder.parent)
        yield _row(name, "model", "trained here", folder, f"explllm explain face.jpg --model {folder}")
    what = "ExpLLM from the paper's authors (7B)"
    for released in known.released_models():
        yield _row(released.name, "model", what, released, f"explllm explain face.jpg --model {released}")
    if not known.released_models():
        yield _row(RELEASED, "model", what, None, "explllm models get released")
    for name, entry in known.KNOWN_FILES.items():
        path = known.cached(name)
        use = f"explllm models get {name}" if path is None else str(path)
        yield _row(name, "file", f"{entry.summary} ({entry.license})", path, use)


def _row(name: str, kind: str, what: str, path: Path | None, use: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "what": what, "path": None if path is None else str(path), "use": use}


def _get_released(name: str, keep: bool) -> None:
    from explllm.core.downloads import cache_folder, check_space, file_size
    from explllm.models import known

    if existing := known.released_models(name):
        sys.stdout.write(f"exists  {existing[0]}\n")
        return
    checkpoint = known.choose_checkpoint(known.released_checkpoints(), name)
    out = checkpoint.model
    # Files left by an earlier, interrupted download need no additional space.
    received = sum(file.stat().st_size for file in checkpoint.downloads.rglob("*") if file.is_file())
    check_space(cache_folder(), max(2 * checkpoint.size - received, checkpoint.size))
    sys.stderr.write(
        f"{known.RELEASED_REPOSITORY}/{checkpoint.folder}: {file_size(checkpoint.size)} to download, and as much again "
        "for the conversion\n"
    )
    with _progress() as progress:
        folder = known.download_checkpoint(checkpoint, progress)
    from explllm.models.released.convert import check_converted, convert_released

    convert_released(folder, out)
    sys.stdout.write(f"wrote   {out}\nchecked {check_converted(out)}\n")
    if not keep:
        shutil.rmtree(folder)
    sys.stdout.write(f"try     explllm explain face.jpg --model {out}\n")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows the progress of downloads, with one bar per file."""
    from explllm.core.progress import ProgressBar

    with ExitStack() as stack:
        bars: dict[str, ProgressBar] = {}

        def update(name: str, received: int, size: int) -> None:
            if name not in bars:
                stack.close()
                bars[name] = stack.enter_context(ProgressBar(name, size, received, in_bytes=True))
            bars[name].update(received)

        yield update
