"""Fixtures that run a reader and return its rows."""

import pytest

from explllm.data.readers.registry import read_data_set


@pytest.fixture
def read(tmp_path):
    """Reads a data set; warnings go to the list ``read.warnings``."""
    warnings = []

    def run(name, root, **options):
        return read_data_set(name, root, out=tmp_path / "written" / "faces-images", warn=warnings.append, **options)

    run.warnings = warnings
    return run


@pytest.fixture
def cells():
    """The rows of some columns as tuples."""
    return lambda reading, *columns: list(reading.manifest.frame[list(columns)].itertuples(index=False, name=None))
