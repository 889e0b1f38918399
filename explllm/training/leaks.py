"""Check whether test faces were training faces, and whether a model was trained on a data set."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.manifest import Manifest
from explllm.core.progress import track
from explllm.faces.boxes import iou
from explllm.training.face_record import face_table

SAME_FACE = 0.5
"""Two boxes in one image show the same face if their intersection over union exceeds this value (our choice)."""
_COMPARED_ROWS = 1000
"""Maximum number of images, sampled from the test manifest, whose content is compared with the training images."""


@dataclass(frozen=True)
class DataCheck:
    """The result of comparing a model's training faces with test faces."""

    relation: str
    """The model's relation to the data set of the test faces: ``trained on``, ``zero-shot`` or ``unknown``."""
    leaks: dict[str, int] | None = None
    """Number of test faces with the same image (``images``) or person (``people``) as a training face, and of training
    faces that could not be compared (``missing``); None if the training faces are unknown."""
    unknown: str = ""
    """What is unknown about the training faces; empty if nothing is."""


class ComparedFaces:
    """Test faces that are compared with the training faces of each model."""

    def __init__(self, test: Manifest, manifest: Manifest) -> None:
        """Describe the test faces; images are not read until a comparison needs them.

        Args:
            test: The test faces.
            manifest: All faces of the test's manifest. A model trained on any of them was trained on the data set.
        """
        self._digests = _Digests()
        self.table, data_set = face_table(test), face_table(manifest)
        self._facs_sets = set(self.table["facs_set"].dropna())
        if self._facs_sets:
            # A manifest may mix data sets.
            data_set = data_set[data_set["facs_set"].isin(self._facs_sets)]
        self._folder, self._paths = str(data_set["folder"].iloc[0]), set(data_set["image"])
        self._others = list(data_set["image"].sample(min(_COMPARED_ROWS, len(data_set)), random_state=0))

    @cached_property
    def _content(self) -> list[str | None]:
        return [self._digests.of(path) for path in self.table["image"]]

    @cached_property
    def _data_set_content(self) -> set[str | None]:
        return {*self._content, *map(self._digests.of, self._others)} - {None}

    @cached_property
    def _sizes(self) -> set[int]:
        return {self._digests.size_and_time(path)[0] for path in (*self.table["image"], *self._others)}

    def check(self, record: pd.DataFrame | None) -> DataCheck:
        """Compare the test faces with the training faces of a model.

        Args:
            record: The model's record (see `explllm.training.face_record`); None if it has no record.

        Returns:
            The relation and the leaks. Faces with equal identities count as the same person, unless the data sets are
            known to differ. ``zero-shot`` requires that all training images can still be compared.
        """
        if record is None:
            return DataCheck("unknown", None, "its training faces are unknown: its run folder has no record of them")
        unchanged, content = self._read(record)
        images = _same_faces(self.table["box"], self._content, record["box"], content)
        people, relations = np.zeros(len(self.table), bool), set()
        sets = list(zip(record["folder"], record["facs_set"].where(record["facs_set"].notna(), ""), strict=True))
        for folder, facs_set in dict.fromkeys(sets):
            rows = np.array([one == (folder, facs_set) for one in sets])
            known = set(record["image"][rows & unchanged]) & self._paths
            read = {value for value, chosen in zip(content, rows & unchanged, strict=True) if chosen}
            same = True if known or read & self._data_set_content else self._may_be_same(folder, facs_set)
            relations.add(same)
            if same is not False:
                people |= self.table["identity"].isin(record["identity"][rows].dropna()).to_numpy()
        found = {"images": int(images.sum()), "people": int(people.sum()), "missing": int((~unchanged).sum())}
        unknown = _unknown(record, found["missing"])
        certain = relations == {False} and not unknown
        return DataCheck("trained on" if True in relations else "zero-shot" if certain else "unknown", found, unknown)

    def without_shared(self, faces: Manifest) -> Manifest | None:
        """Return the faces that share no image or person with the test faces; None if none are left."""
        table = face_table(faces)
        content = [self._digests.of(path) for path in table["image"]]
        shared = _same_faces(table["box"], content, self.table["box"], self._content)
        shared |= table["identity"].isin(self.table["identity"].dropna()).to_numpy()
        return None if shared.all() else Manifest(faces.frame[~shared], faces.root, faces.path)

    def _read(self, record: pd.DataFrame) -> tuple[np.ndarray, list[str | None]]:
        """Read training images.

        Returns:
            For each row, whether its image is readable and was last changed before the training started. For each row,
            the image's digest if its file is as large as that of a test image or of a sampled image of the data set,
            else None. A newer image also has a digest, because its content may still be the same.
        """
        unchanged, content = np.zeros(len(record), bool), []
        faces = track(zip(record["image"], record["time"], strict=True), "comparing training images", len(record))
        for row, (path, started) in enumerate(faces):
            size, modified = self._digests.size_and_time(path)
            content.append(self._digests.of(path) if size in self._sizes else None)
            unchanged[row] = modified <= started and (content[-1] is not None or size not in self._sizes)
        return unchanged, content

    def _may_be_same(self, folder: str, facs_set: str) -> bool | None:
        """Return False if training faces without a shared image come from another data set, None if that is unknown."""
        if facs_set and self._facs_sets:
            return None if facs_set in self._facs_sets else False
        # One data set may have a folder for each person, and several data sets may share a root folder.
        ours, theirs = Path(self._folder), Path(folder)
        return None if ours.is_relative_to(theirs) or theirs.is_relative_to(ours) else False


def count_training_faces(record: pd.DataFrame, test: Manifest) -> int:
    """Return the number of test faces with the path and box of a training or validation face.

    Unlike `ComparedFaces.check`, this function reads no images, so it does not find copies.

    Args:
        record: The model's record (see `explllm.training.face_record`).
        test: The test faces.
    """
    table = face_table(test)
    return int(_same_faces(table["box"], table["image"], record["box"], record["image"]).sum())


class _Digests:
    """Reads each file at most once."""

    def __init__(self) -> None:
        self._stats: dict[str, tuple[int, float]] = {}
        self._digests: dict[str, str | None] = {}

    def size_and_time(self, path: str) -> tuple[int, float]:
        """Return the size and the modification time; -1 and infinity if there is no such file."""
        if path not in self._stats:
            try:
                found = os.stat(path)
                self._stats[path] = found.st_size, found.st_mtime
            except OSError:
                self._stats[path] = -1, math.inf
        return self._stats[path]

    def of(self, path: str) -> str | None:
        """Return a hash of the content; None if the file cannot be read."""
        if path not in self._digests:
            try:
                with open(path, "rb") as stream:
                    self._digests[path] = file_digest(stream, "sha256").hexdigest()
            except OSError:
                self._digests[path] = None
        return self._digests[path]


def _same_faces(
    boxes: Iterable[Any], content: Iterable[str | None], other_boxes: Iterable[Any], other_content: Iterable[str | None]
) -> np.ndarray:
    """Return whether each face is one of the others.

    Two faces are the same if their contents (or paths) are equal and, where both have a box, the boxes overlap.
    """
    known: dict[str | None, list[Any]] = defaultdict(list)
    for box, value in zip(other_boxes, other_content, strict=True):
        if value is not None:
            known[value].append(box)

    def same(box: Any, other: Any) -> bool:
        return not isinstance(box, list) or not isinstance(other, list) or iou(tuple(box), tuple(other)) > SAME_FACE

    return np.array(
        [any(same(box, other) for other in known.get(value, ())) for box, value in zip(boxes, content, strict=True)],
        bool,
    )


def _unknown(record: pd.DataFrame, missing: int) -> str:
    """Describe the training faces that cannot be compared."""
    gaps = record["gap"].dropna().unique()
    parts = [f"the training faces of {gap}, from which it started, are unknown" for gap in gaps]
    if missing:
        parts.append(f"{missing:,} of {len(record):,} training images are missing or changed since the training")
    return "; ".join(parts)
