"""A folder of class folders, or of photographs without labels."""

from explllm.core.expressions import LabelSet
from explllm.data.folder import has_class_folders, read_folder, read_unsorted_folder
from explllm.data.readers.source import Source


def read_class_folders(
    source: Source, label_set: str | None = None, split: str | None = None, keep_zero_units: bool = False
) -> None:
    """Read a folder of class folders, or photographs without labels if there are no class folders.

    Args:
        source: The folder.
        label_set: Label set with the allowed classes, such as rafdb; required if class folders are named by
            numbers.
        split: Read only this split.
        keep_zero_units: Treat action units that never reach 0.05 in action_units.csv as measured. By
            default, they are treated as not measured in tables of 100 rows or more.
    """
    unsorted = label_set is None and split is None and source.root.is_dir() and not has_class_folders(source.root)
    manifest = read_unsorted_folder(source.root) if unsorted else None
    if manifest is not None:
        source.remarks["photographs without labels: they are not in class folders"] += len(manifest)
    else:
        manifest = read_folder(
            source.root,
            split=split,
            label_set=None if label_set is None else LabelSet.by_name(label_set),
            keep_zero_units=keep_zero_units,
            note=source.warn,
            guard=source.row,
        )
    source.add_manifest(manifest, source.root)
