"""The table of readers, and the function that runs one.

To add a publisher's data set NAME, write ``explllm/data/readers/NAME.py`` with a function ``read_NAME(source, ...)``
and add one line to `READERS`. The function receives a `Source`, enters ``source.row(...)`` for each row and calls
``source.add(...)``. Its other parameters become the options of ``explllm data NAME``, described by its docstring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from types import MappingProxyType
from typing import Any

from explllm.core.errors import ConfigError
from explllm.core.manifest import Manifest
from explllm.data.readers.source import Source, to_stderr


@dataclass(frozen=True)
class Reader:
    """A data set on the command line, and the function that reads it."""

    name: str
    """The data set's name on the command line."""
    module: str
    """The module in `explllm.data.readers`; its function is ``read_MODULE``."""
    summary: str
    """One line of help."""

    @property
    def read(self) -> Callable[..., None]:
        """The function that reads a `Source`."""
        module = import_module(f"explllm.data.readers.{self.module}")
        return getattr(module, f"read_{self.module}")


@dataclass(frozen=True)
class Reading:
    """The result of a reader."""

    manifest: Manifest
    """The rows."""
    left_out: Mapping[str, int]
    """Number of rows left out by the reader's rules, by reason."""
    remarks: Mapping[str, int]
    """Remarks on rows that were kept, or on whole lists and sets, with the number of cases."""
    bad: tuple[str, ...]
    """Bad rows that were left out, one line each."""
    differences: tuple[str, ...]
    """Differences from the published counts."""


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        name: Reader(name, module, summary)
        for name, module, summary in (
            ("rafdb", "rafdb", "RAF-DB, the folder basic: EmoLabel/, Image/, Annotation/"),
            ("affectnet", "affectnet", "AffectNet: arrays (train_set/, val_set/), CSV lists, or Kaggle's subset"),
            ("expw", "expw", "ExpW: label/label.lst and image/origin/"),
            ("fer2013", "fer2013", "FER2013: class folders, CSV files of pixels, or the votes of FER+"),
            ("cc3m", "cc3m", "image-caption pairs for the first stage: LLaVA's lists, or *.tar shards"),
            ("feafa", "feafa", "FEAFA and FEAFA+: SUBJECT/SEQUENCE/FRAME.jpg with FRAME.auw"),
            ("disfa", "disfa", "DISFA: ActionUnit_Labels/ and frames of its videos, or a list"),
            ("bp4d", "bp4d", "BP4D: AUCoding/AU_OCC/ and frames, or a list"),
            ("explllm", "released", "lists released by ExpLLM's authors: file_name, emo, au, description"),
            ("folder", "class_folders", "a folder of class folders, or photographs without labels"),
        )
    }
)
"""The readers by name."""


def read_data_set(
    name: str,
    root: str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    max_bad: int = 0,
    check_images: bool = False,
    images_exist: bool = True,
    warn: Callable[[str], None] | None = None,
    **options: Any,
) -> Reading:
    """Read a data set in its publisher's layout.

    Args:
        name: The data set, one of `READERS`.
        root: The folder, or the list.
        out: The folder for images that the data set stores inside other files.
        overwrite: Replace that folder if it exists.
        max_bad: Maximum number of bad rows to report and leave out before reading stops.
        check_images: Decode every image and check its box.
        images_exist: Check that every image exists; if False, read only the lists.
        warn: Called with each warning, one line; by default, warnings are written to stderr.
        **options: The options of the reader; see its function.

    Returns:
        The manifest, and remarks about its rows.

    Raises:
        ConfigError: If there is no such reader, or an option is out of range.
        InputError: If the folder does not have the publisher's layout, or more than `max_bad` rows are bad.
    """
    if name not in READERS:
        raise ConfigError(f"unknown data set {name!r}", remedy=f"Use one of {', '.join(READERS)}.")
    source = Source(
        root,
        out=out,
        overwrite=overwrite,
        max_bad=max_bad,
        check_images=check_images,
        images_exist=images_exist,
        warn=warn or to_stderr,
    )
    READERS[name].read(source, **options)
    return Reading(
        source.manifest(), dict(+source.left_out), dict(+source.remarks), tuple(source.bad), tuple(source.differences)
    )
