"""A test's predictions, made up by chance from drawn faces, and what follows from them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explllm.core.expressions import LABEL_SETS
from explllm.core.manifest import Manifest
from explllm.metrics.answers import Answers
from explllm.metrics.evaluation import recognition_metrics

NOTICE = "The faces are drawn by a program, not photographs."


@pytest.fixture(scope="session")
def made_up():
    """Adds answers to a table of faces: the greater `skill`, the more of them are right."""

    def answer(frame, seed=0, skill=1.2, labels=tuple(LABEL_SETS["rafdb"])):
        random = np.random.default_rng(seed)
        table = frame[["image", "expression"]].reset_index(drop=True)
        names = [str(label) for label in labels]
        logits = random.normal(size=(len(table), len(names)))
        logits[np.arange(len(table)), [names.index(truth) for truth in table["expression"]]] += skill
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        table["predicted"] = [names[place] for place in shares.argmax(1)]
        return table.join(pd.DataFrame(shares, columns=[f"p_{name}" for name in names]))

    return answer


@pytest.fixture(scope="session")
def metrics_of():
    """Computes what ``metrics.json`` holds after a test with these predictions."""

    def compute(table, root="faces", labels=None, **more):
        metrics = {
            **recognition_metrics(Answers.from_table(table, labels)),
            "unreadable": [],
            "root": str(root),
            **more,
        }
        return {
            **{f"test/{name}": value for name, value in metrics.items()},
            "training_data_note": NOTICE,
            "explllm": "9.9",
        }

    return compute


@pytest.fixture(scope="session")
def drawn_table(drawn_faces):
    """The table of the drawn test faces."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    return frame[frame["split"] == "test"].reset_index(drop=True)


@pytest.fixture
def tested(drawn_table, drawn_faces, made_up, metrics_of, tmp_path):
    """Writes a run folder that holds a test."""

    def write(name, frame=None, **options):
        table = made_up(drawn_table if frame is None else frame, **options)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        Manifest(table, drawn_faces).write(folder / "predictions.parquet")
        held = metrics_of(table, drawn_faces)
        Path(folder / "metrics.json").write_text(json.dumps(held), encoding="utf-8")
        return folder

    return write
