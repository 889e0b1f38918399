"""The model in the package, on real faces."""

import pytest

from explllm import ExpLLM
from explllm.data.folder import read_folder
from explllm.explanations.grounding import ground
from explllm.metrics.answers import Answers
from explllm.metrics.evaluation import explanation_metrics, recognition_metrics

POCKET = "explllm/pretrained/pocket"


@pytest.mark.slow
def test_the_model_in_the_package(repository, reference_data):
    """Accuracy, calibration and explanations of the 656 test faces; bounds are those of the model card."""
    import pandas as pd

    model = ExpLLM.from_pretrained(repository / POCKET)
    manifest = read_folder(reference_data / "faces", split="test")
    recognitions = model.recognize((manifest.image_path(row) for row in range(len(manifest))), batch_size=64)
    table = recognitions.to_frame().rename(columns={"expression": "predicted"})
    table = pd.concat([table, manifest.frame[["expression"]].reset_index(drop=True)], axis=1)
    metrics = recognition_metrics(Answers.from_table(table, model.labels), resamples=100)
    assert metrics["accuracy"] >= 0.62 and metrics["macro_recall"] >= 0.58 and metrics["ece"] <= 0.05
    rows = list(range(0, len(manifest), 7))
    explained = model.recognize_and_explain([manifest.image_path(row) for row in rows])
    texts, labels = [cot.text for _, cot in explained], [one.expression for one, _ in explained]
    units = [manifest.intensities_at(row) for row in rows]
    metrics = explanation_metrics(texts, labels, units, [None] * len(texts))
    assert metrics["complete"] == 1 and metrics["agreement"] >= 0.98
    assert metrics["grounding_precision"] >= 0.75
    strong = [(text, values) for text, values in zip(texts, units, strict=True) if values is not None]
    missing = sum(len(ground(text, values, strong=0.6).missing) for text, values in strong)
    assert 1 - missing / sum(value is not None and value >= 0.6 for _, values in strong for value in values) >= 0.3


def test_size_of_the_model_in_the_package(repository):
    files = [path for path in (repository / POCKET).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 8e6
