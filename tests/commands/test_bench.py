"""`explllm bench fea`: from the publishers' files to the report, leaks, and the relation to the training data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

from explllm.core.manifest import Manifest
from explllm.models.build import NetworkSettings, build


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A FEALLM and an ExpLLM with random weights."""
    folder = tmp_path_factory.mktemp("models")
    settings = NetworkSettings(preset="tiny", labels="rafdb", vocabulary=700)
    for name in ("feallm", "expllm"):
        torch.manual_seed(0)
        build(replace(settings, architecture=name)).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(("data_set", "units"), [("bp4d", 12), ("disfa", 8)])
def test_from_the_publishers_files(explllm, publishers, models, tmp_path, data_set, units):
    root = getattr(publishers, data_set)(tmp_path / "copy")
    done = explllm("data", data_set, root, "-o", "faces.parquet", "--fold", 1)
    assert done.status == 0, done.err
    frame = Manifest.read("faces.parquet").frame
    test = frame[frame["split"] == "test"]
    if test.empty:
        frame["split"] = "test"
        frame.to_parquet("faces.parquet")
        test = frame
    assert not set(test["identity"]) & set(frame[frame["split"] == "train"]["identity"])
    command = ("bench", "fea", "faces.parquet", models / "feallm", models / "expllm", "-o", "out", "--root", root)
    done = explllm(*command, "--max-new-tokens", 4)
    assert done.status == 0, done.err
    report = json.loads((tmp_path / "out/bench.json").read_text())
    assert [model["name"] for model in report["models"]] == ["feallm", "expllm"]
    truth = np.array(test["facs"].tolist())
    for model in report["models"]:
        answers = [json.loads(line) for line in (tmp_path / f"out/{model['name']}.jsonl").read_text().splitlines()]
        scores = model["units_likelihood"]["f1"]
        assert len(scores) == units and len(answers) == len(test)
        for place, (name, score) in enumerate(scores.items()):
            active = np.array([answer["p_active"][name] for answer in answers]) >= 0.5
            if truth[:, place].any() or active.any():
                assert score == pytest.approx(f1_score(truth[:, place], active))
            else:
                assert score is None
    page = (tmp_path / "out/bench.html").read_text()
    assert "Published by the authors of these models, not measured here" in page and "EmoLA" in page
    assert "thresholds of feallm, expllm are 0.5" in page


def test_leaks_and_relation(explllm, models, drawn_faces, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(models / "feallm")
    data = {"class_path": "DrawnFaces", "init_args": {"folder": str(drawn_faces)}}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    manifest = drawn_faces / "manifest.parquet"
    short = ("--max-new-tokens", 2, "--sample", 4)
    done = explllm("bench", "fea", manifest, run, "-o", "out", *short)
    assert done.status == 0, done.err
    report = json.loads((tmp_path / "out/bench.json").read_text())
    assert report["faces"] == 4
    assert (report["models"][0]["data"], report["models"][0]["leaks"]) == ("trained on", {"images": 0, "people": 0})
    assert report["models"][0]["units_likelihood"]["calibrated"]
    assert "drawn by a program" in (tmp_path / "out/bench.html").read_text()
    done = explllm("bench", "fea", manifest, run, "-o", "out", "--split", "train", *short)
    assert done.status == 2 and "was trained on 4 of 4 test faces (same images)" in done.error
    # The same file under another name is found too.
    copy = tmp_path / "copy"
    copy.mkdir()
    table = Manifest.read(manifest).frame.iloc[:3].copy()
    for number, image in enumerate(table["image"]):
        (copy / f"{number}.png").write_bytes((drawn_faces / image).read_bytes())
    table["image"], table["split"] = [f"{number}.png" for number in range(3)], "test"
    Manifest(table, copy).write(copy / "faces.parquet")
    assert "3 of 3 test faces" in explllm("bench", "fea", copy / "faces.parquet", run, "-o", "out", *short).error
    assert explllm("bench", "fea", copy / "faces.parquet", run, "-o", "out", *short, "--allow-leaks").status == 0
    [model] = json.loads((tmp_path / "out/bench.json").read_text())["models"]
    assert (model["data"], model["leaks"]["images"]) == ("zero-shot", 3)


def test_a_table_of_answers(explllm, drawn_faces, tmp_path):
    table = Manifest.read(drawn_faces / "manifest.parquet")
    frame = table.frame[table.frame["split"] == "test"].reset_index(drop=True)
    frame["predicted"] = ["", "no idea", "Freude", *frame["expression"][3:]]
    frame.drop(columns="action_units").to_parquet("oracle.parquet")
    done = explllm("bench", "fea", drawn_faces / "manifest.parquet", "oracle.parquet", "-o", "out")
    assert done.status == 0, done.err
    [model] = json.loads((tmp_path / "out/bench.json").read_text())["models"]
    assert model["expression"]["accuracy"] == pytest.approx((len(frame) - 3) / len(frame))
    assert model["reasoning"]["parsed"] == 1 and model["reasoning"]["exp_cot_score"] == pytest.approx(1)
    assert model["units_text"]["mean_f1"] > 0.8 and "units_likelihood" not in model
    frame["image"] = "x" + frame["image"]
    frame.to_parquet("oracle.parquet")
    error = explllm("bench", "fea", drawn_faces / "manifest.parquet", "oracle.parquet", "-o", "out").error
    assert "no answer about a test face" in error
    assert (
        "neither a model nor a table" in explllm("bench", "fea", drawn_faces / "manifest.parquet", ".", "-o", "o").error
    )
