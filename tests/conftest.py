"""Fixtures that every part of the tests shares."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def _reference() -> Path:
    return Path(os.environ.get("EXPLLLM_REFERENCE", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Real faces and real chains of thought, beside the checkout; the tests that need them skip without."""
    folder = _reference() / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set EXPLLLM_REFERENCE to the folder that holds data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the authors' released code, beside the checkout; the tests that need them skip without."""
    folder = _reference() / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden outputs at {folder}; set EXPLLLM_REFERENCE to the folder that holds data/ and golden/")
    return folder
