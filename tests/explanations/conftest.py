"""Real texts, shared by the tests of this folder."""

import json

import pytest


@pytest.fixture(scope="session")
def real_texts(reference_data):
    """The real chains of thought with the intensities that they were written from."""
    rows = json.loads((reference_data / "rafdb/rafdb_cot_first600.json").read_text(encoding="utf-8"))
    return [(row["description"], row["au"]) for row in rows]
