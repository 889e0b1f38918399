"""The table of readers, and the one function that runs any of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType
from typing import Any

from explllm.core.errors import ConfigError
from explllm.core.expressions import LabelSet
from explllm.core.manifest import Manifest
from explllm.data.folder import read_folder, read_unsorted_folder
from explllm.data.readers.affectnet import read_affectnet
from explllm.data.readers.bp4d import read_bp4d
from explllm.data.readers.cc3m import read_cc3m
from explllm.data.readers.disfa import read_disfa
from explllm.data.readers.expw import read_expw
from explllm.data.readers.feafa import read_feafa
from explllm.data.readers.fer2013 import read_fer2013
from explllm.data.readers.rafdb import read_rafdb
from explllm.data.readers.released import read_released
from explllm.data.readers.source import Source, to_stderr


@dataclass(frozen=True)
class Reader:
    """One data set."""

    name: str
    """What the user types."""
    summary: str
    """One line of help."""
    read: Callable[..., None]
    """Reads a `Source`; its other parameters are the options of ``explllm data NAME``, described by its docstring."""


@dataclass(frozen=True)
class Reading:
    """What a reader found."""

    manifest: Manifest
    """The rows."""
    left_out: Mapping[str, int]
    """Rows that the set's rules leave out, by reason."""
    remarks: Mapping[str, int]
    """What is worth knowing of rows that were kept."""
    bad: tuple[str, ...]
    """Bad rows that were tolerated, a line each."""
    differences: tuple[str, ...]
    """What differs from the published counts."""


def _read_folder(
    source: Source, label_set: str | None = None, split: str | None = None, keep_zero_units: bool = False
) -> None:
    """Read a folder of class folders, or a folder of photographs without labels.

    Args:
        source: The folder.
        label_set: The allowed classes, such as rafdb; needed for class folders named by numbers.
        split: Read only this split.
        keep_zero_units: Treat action units that stay at zero in action_units.csv as measured.
    """
    unsorted = read_unsorted_folder(source.root)
    if unsorted is not None:
        source.remarks["photographs without labels, as they are not in class folders"] += len(unsorted)
    classes = None if label_set is None else LabelSet.by_name(label_set)
    manifest = unsorted or read_folder(
        source.root,
        split=split,
        label_set=classes,
        keep_zero_units=keep_zero_units,
        note=source.warn,
        guard=source.row,
    )
    source.add_manifest(manifest, source.root)


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        reader.name: reader
        for reader in (
            Reader("rafdb", "RAF-DB, the folder basic: EmoLabel/, Image/, Annotation/", read_rafdb),
            Reader(
                "affectnet",
                "AffectNet: arrays (train_set/, val_set/), CSV lists, or the subset from Kaggle",
                read_affectnet,
            ),
            Reader("expw", "ExpW: label/label.lst and image/origin/", read_expw),
            Reader(
                "fer2013", "FER2013: class folders, fer2013.csv, or the votes of FER+ (fer2013new.csv)", read_fer2013
            ),
            Reader("cc3m", "CC3M for the first stage: LLaVA's chat.json and images/, or shards *.tar", read_cc3m),
            Reader("feafa", "FEAFA and FEAFA+: SUBJECT/SEQUENCE/FRAME.jpg with FRAME.auw", read_feafa),
            Reader("disfa", "DISFA: ActionUnit_Labels/ and frames cut from its videos, or a list", read_disfa),
            Reader("bp4d", "BP4D: AUCoding/AU_OCC/ and frames, or a list", read_bp4d),
            Reader(
                "explllm",
                "the lists that ExpLLM's authors released: JSON with file_name, emo, au, description",
                read_released,
            ),
            Reader("folder", "a folder of class folders, in split folders or not", _read_folder),
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
    images_there: bool = True,
    warn: Callable[[str], None] | None = None,
    **options: Any,
) -> Reading:
    """Read a data set as its publisher ships it.

    Args:
        name: The data set, one of `READERS`.
        root: The folder.
        out: The folder for images that the set ships inside other files.
        overwrite: Replace that folder if it exists.
        max_bad: Bad rows that are reported and left out before the reading stops.
        check_images: Decode every image, and hold its box against its size.
        images_there: Look whether every image is there; False reads lists alone.
        warn: Takes each warning, a line; by default they go to stderr.
        **options: The reader's own; see its function.

    Returns:
        The manifest and what there is to say of it.

    Raises:
        ConfigError: If there is no such reader, or an option is out of range.
        InputError: If the folder is not as the publisher ships it.
    """
    if name not in READERS:
        raise ConfigError(f"there is no reader {name!r}", remedy=f"Use one of {', '.join(READERS)}.")
    source = Source(
        root,
        out=out,
        overwrite=overwrite,
        max_bad=max_bad,
        check_images=check_images,
        images_there=images_there,
        warn=warn or to_stderr,
    )
    READERS[name].read(source, **options)
    return Reading(
        source.manifest(), dict(+source.left_out), dict(+source.remarks), tuple(source.bad), tuple(source.differences)
    )
