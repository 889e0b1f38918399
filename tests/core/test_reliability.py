"""Damaged tables of reliability; `tests/faces/test_action_units.py` reads one that the command wrote."""

import pandas as pd
import pytest

from explllm.core.errors import ManifestError
from explllm.core.reliability import UnitReliability


def test_files_that_are_no_csv_tables(tmp_path):
    latin, parquet, empty = (tmp_path / name for name in ("latin.csv", "parquet.csv", "empty.csv"))
    latin.write_text("unit,weight,threshold\ncaf\u00e9,1,0.5\n", encoding="latin-1")
    pd.DataFrame({"unit": ["Jaw Drop"], "weight": [1.0], "threshold": [0.5]}).to_parquet(parquet)
    for path in (latin, parquet):
        with pytest.raises(ManifestError, match=r"not a CSV table in UTF-8 .*\.csv\]. Use a table that `explllm rel"):
            UnitReliability.read(path)
    empty.touch()
    with pytest.raises(ManifestError, match=r"no column unit, weight, threshold \[.*empty.csv\]"):
        UnitReliability.read(empty)
