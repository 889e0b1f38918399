"""The faces behind the cells of the confusion matrix, and the size of the page."""

import numpy as np
import pytest
from PIL import Image

from explllm.core.expressions import LABEL_SETS
from explllm.metrics.answers import Answers
from explllm.report.confusion import confusion_cells, most_frequent_error, scored_faces
from explllm.report.page import write_report


@pytest.fixture
def photographs(tmp_path):
    """Sixty pictures of noise, which JPEG compresses worst."""
    random = np.random.default_rng(0)
    for place in range(60):
        Image.fromarray(random.integers(0, 256, (100, 100, 3), np.uint8)).save(tmp_path / f"{place}.png")
    return tmp_path


def test_cells(drawn_table, drawn_faces, made_up, metrics_of):
    table = made_up(drawn_table)
    table.loc[0, "predicted"] = "hard to say"
    metrics = {key.removeprefix("test/"): value for key, value in metrics_of(table).items()}
    faces = scored_faces(Answers.from_table(table), table, drawn_faces)
    cells = confusion_cells(metrics, faces)
    assert [[cell.count for cell in row] for row in cells] == metrics["confusion"]
    assert [cell.column for cell in cells[0]] == [*metrics["labels"], "no label"]
    assert sum(cell.share for cell in cells[0]) == pytest.approx(1)
    for cell in (cell for row in cells for cell in row):
        assert len(cell.faces) == cell.count
        assert all((face.row, face.column) == (cell.row, cell.column) and url for face, url in cell.faces)
        shares = [float(line.split()[1].rstrip("%")) for face, _ in cell.faces for _, line in face.lines]
        assert shares == sorted(shares)  # the worst first
    opened = most_frequent_error(cells)
    assert opened.count == max(cell.count for row in cells for cell in row if cell.row != cell.column)


def test_pictures_that_are_gone(drawn_table, made_up, metrics_of, tmp_path):
    table = made_up(drawn_table)
    metrics = {key.removeprefix("test/"): value for key, value in metrics_of(table).items()}
    cells = confusion_cells(metrics, scored_faces(Answers.from_table(table), table, tmp_path))
    faces = [face for row in cells for cell in row for face in cell.faces]
    assert sorted(face.name for face, _ in faces) == sorted(table["image"])
    assert not any(url for _, url in faces)


def test_the_page_of_3000_faces_is_below_2_megabytes(photographs, made_up, metrics_of, tmp_path):
    import pandas as pd

    labels = [str(label) for label in LABEL_SETS["rafdb"]]
    frame = pd.DataFrame({"image": [f"{row % 60}.png" for row in range(3000)], "expression": labels * 428 + labels[:4]})
    table = made_up(frame)
    tested = scored_faces(Answers.from_table(table), table, photographs)
    write_report(tmp_path / "run/report.html", "a run", metrics_of(table), [], tested=tested)
    page = (tmp_path / "run/report.html").read_text()
    assert 500_000 < len(page.encode()) < 2_000_000
    # Rare cells have faces too: thumbnails are made in turns over the cells.
    metrics = {key.removeprefix("test/"): value for key, value in metrics_of(table).items()}
    assert all(cell.faces for row in confusion_cells(metrics, tested) for cell in row if cell.count)
