"""The notebooks run offline, from an empty folder and again in the same one, and their stored outputs are small."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from explllm.core.errors import MissingPathError
from explllm.models.known import shipped_model

NOTEBOOKS = sorted(path.name for path in Path(__file__).parents[1].joinpath("notebooks").glob("*.ipynb"))


def test_every_notebook_of_the_documentation_exists(repository):
    linked = (repository / "docs/pages/howto/notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS and all(f"notebooks/{name}" in linked for name in NOTEBOOKS)
    for name in NOTEBOOKS:
        assert (repository / "notebooks" / name).stat().st_size < 200_000


@pytest.mark.slow  # each starts a kernel and imports torch
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(repository, name, tmp_path, monkeypatch):
    if name == "quickstart.ipynb":
        try:
            shipped_model()
        except MissingPathError:
            pytest.skip("explllm/pretrained/pocket holds no weights in this checkout")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")]))
    book = nbformat.read(repository / "notebooks" / name, as_version=4)
    for _ in range(2):  # the second run finds the files of the first one
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    # main() returns the exit status, which a notebook displays.
    statuses = [
        (cell.source, output.data["text/plain"])
        for cell in cells
        for output in cell.outputs
        if cell.source.splitlines()[-1].startswith("main(") and output.output_type == "execute_result"
    ]
    assert all(status == "0" for _, status in statuses), statuses
