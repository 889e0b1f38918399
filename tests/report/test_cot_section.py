"""The section of a test's page about explanations."""

import json
import re
import shutil

from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.metrics.evaluation import explanation_metrics
from explllm.metrics.judges.rules import OfflineJudge
from explllm.models.generation import Recognition
from explllm.report.cot_section import cot_section
from explllm.report.explained import ExplainedFace
from explllm.training.sample import fixed_sample


def test_a_test_says_how_good_its_words_are(explllm, fitted, small_config, drawn_faces, tmp_path):
    shutil.copytree(fitted, tmp_path / "run")
    done = explllm("test", "--config", small_config, "--run_dir", tmp_path / "run", "--explained_faces", 4)
    assert done.status == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    # The metrics describe a sample that does not depend on how well its faces are recognized.
    table = Manifest.read(tmp_path / "run/predictions.parquet").frame
    assert metrics["test/cot/count"] == 16
    # By the source: a barely trained model may write an empty text.
    assert set(fixed_sample(table, 16)) <= set(table.index[table["cot_source"].notna()])
    assert metrics["test/cot/judge"].startswith("offline")
    # Predictions keep what is known about the faces, so that `score RUN` can ground their texts.
    data = Manifest.read(drawn_faces / "manifest.parquet").frame.set_index("image")
    assert list(table["action_units"]) == list(data.loc[table["image"], "action_units"])
    assert set(table["action_units_source"]) == {"drawn"}
    gain, interval = metrics["test/cot/grounding_gain"], metrics["test/cot/grounding_gain_interval"]
    assert gain is None or interval[0] <= gain <= interval[1]
    assert 0 <= metrics["test/cot/exp_cot_score"]["score"] <= 1
    page = (tmp_path / "run/report.html").read_text()
    assert len(re.findall(r"Exp-CoT Score \d\.\d\d \(key observations", page)) == 4
    assert "<h2>Explanations</h2>" in page and "judge: offline" in page and "as published; judge: GPT-4o" in page
    assert explllm("test", "--config", small_config, "--run_dir", tmp_path / "run", "--explained_faces", 0).status == 0
    again = json.loads((tmp_path / "run/metrics.json").read_text())
    assert not any(name.startswith("test/cot/") for name in again)


def test_metrics_of_texts_that_are_true(drawn_faces):
    manifest = Manifest.read(drawn_faces / "manifest.parquet")
    row = manifest.frame.iloc[0]
    label, judge = Expression(row["expression"]), OfflineJudge()
    cot = ChainOfThought.parse(row["cot"])
    metrics = explanation_metrics([cot.text], [label], [row["action_units"]], [row["cot"]])
    assert metrics["exp_cot_score"]["score"] == metrics["agreement"] == 1
    assert cot_section(metrics).rows[0][-1] == "1.00"
    face = ExplainedFace(manifest.image_path(0), label, Recognition.of([label], [1.0]), cot, row["action_units"])
    scored = face.with_scores(judge.compare(cot.text, row["cot"]), judge.name)
    assert scored.scores.startswith("Exp-CoT Score 1.00 (key observations 5.0, ")
    alone = explanation_metrics([cot.text], [label], [row["action_units"]], [None])
    assert "judge" not in alone and cot_section(alone).rows == []
    assert explanation_metrics([], [], [], []) == {}
