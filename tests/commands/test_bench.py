"""`explllm bench fea`: from the publishers' files to the report, leaks, and the relation to the training data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
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


SHORT = ("--max-new-tokens", 2, "--sample", 4)


def test_from_bp4d_to_calibrated_thresholds(explllm, publishers, tmp_path):
    """The documented workflow: folds with validation people, training on unit states alone, the benchmark."""
    root = publishers.bp4d(tmp_path / "copy", people=("F001", "F003", "F007"))
    for number, image in enumerate(sorted(root.rglob("*.jpg"))):
        Image.new("RGB", (48, 48), (20 * number, 90, 9)).save(image)  # equal images would be leaks
    assert explllm("data", "bp4d", root, "-o", "bp4d.parquet", "--fold", 1).status == 0
    frame = Manifest.read("bp4d.parquet").frame
    assert dict(zip(frame["identity"], frame["split"], strict=True)) == {"F001": "test", "F003": "train", "F007": "val"}
    data = ("--data", "ManifestFaces", "--data.manifest", "bp4d.parquet", "--data.root", root)
    data += ("--data.mixture", "{unit_state: 1}", "--data.batch_size", 2, "--data.micro_batch_size", 2)
    model = ("--model.network.labels", "rafdb", "--model.network.architecture", "feallm")
    done = explllm("fit", "--config", "demo.yaml", *data, *model, "--trainer.max_epochs", 1, "--run_dir", "run")
    assert done.status == 0, done.err
    done = explllm("bench", "fea", "bp4d.parquet", "run", "-o", "out", "--root", root, "--max_new_tokens", 2)
    assert done.status == 0, done.err
    [result] = json.loads((tmp_path / "out/bench.json").read_text())["models"]
    assert (result["data"], result["leaks"]) == ("trained on", {"images": 0, "people": 0, "missing": 0})
    assert result["units_likelihood"]["calibrated"] == ["AU1 (Inner Brow Raiser)", "AU12 (Lip Corner Puller)"]
    page = (tmp_path / "out/bench.html").read_text()
    assert "run: no validation face shows AU2 (Outer Brow Raiser), AU4" in page and "Without validation" not in page
    done = explllm("baseline", "bp4d.parquet", "--root", root, "--split", "test", "--model", "gpt-4o", "--estimate")
    assert done.status == 0, done.err


@pytest.fixture
def run(fitted, tmp_path):
    """A copy of a run that was trained on the drawn faces."""
    return shutil.copytree(fitted, tmp_path / "runs/small")


def results(out):
    return json.loads((out / "bench.json").read_text())


def test_leaks_and_relation(explllm, run, drawn_faces, tmp_path):
    manifest = drawn_faces / "manifest.parquet"
    done = explllm("bench", "fea", manifest, run, "-o", "out", *SHORT)
    assert done.status == 0, done.err
    report = results(tmp_path / "out")
    assert report["faces"] == 4 and report["validation"] == {"faces": 14, "left_out": 0}
    [model] = report["models"]
    assert (model["data"], model["leaks"]) == ("trained on", {"images": 0, "people": 0, "missing": 0})
    assert model["units_likelihood"]["calibrated"]
    assert "drawn by a program" in (tmp_path / "out/bench.html").read_text()
    # The manifest is another one now; the record of the run is not.
    frame = Manifest.read(manifest).frame
    frame["split"] = frame["split"].map({"train": "test", "test": "train", "val": "val"})
    Manifest(frame, drawn_faces).write(tmp_path / "other.parquet")
    other = ("bench", "fea", "other.parquet", run, "-o", "out", "--root", drawn_faces, *SHORT)
    assert "small was trained on 4 of 4 test faces (same images)" in explllm(*other).error
    # So is the same file under another name, and validation faces, which chose the checkpoint.
    copy = tmp_path / "copy"
    copy.mkdir()
    table = frame[frame["split"] == "val"][:3]
    for number, image in enumerate(table["image"]):
        (copy / f"{number}.png").write_bytes((drawn_faces / image).read_bytes())
    table = table.assign(image=[f"{number}.png" for number in range(3)], split="test")
    Manifest(table, copy).write(copy / "faces.parquet")
    assert "3 of 3 test faces" in explllm("bench", "fea", copy / "faces.parquet", run, "-o", "out", *SHORT).error
    assert explllm("bench", "fea", copy / "faces.parquet", run, "-o", "out", *SHORT, "--allow-leaks").status == 0
    [model] = results(tmp_path / "out")["models"]
    assert (model["data"], model["leaks"]["images"]) == ("trained on", 3)
    assert "small was trained on the images of 3 test faces" in (tmp_path / "out/bench.html").read_text()


def test_a_model_that_started_from_another(explllm, run, small_config, drawn_faces, tmp_path):
    """The training faces of both count: the first model's record is part of the second's."""
    tiny = ("--data.folder", "tiny", "--data.train", 7, "--data.val", 0, "--data.test", 0, "--data.drawing_seed", 5)
    fit = ("fit", "--config", small_config, "--run_dir", "runs/second", "--model.init_from", run / "model", *tiny)
    done = explllm(*fit, "--data.batch_size", 8, "--data.micro_batch_size", 8, "--trainer.max_steps", 1)
    assert done.status == 0, done.err
    (run / "training_faces.parquet").unlink()
    bench = ("bench", "fea", drawn_faces / "manifest.parquet", "runs/second", "-o", "out", *SHORT)
    assert "second was trained on 4 of 4 test faces (same images)" in explllm(*bench, "--split", "train").error
    shutil.rmtree("tiny")
    assert explllm(*bench).status == 0
    [model] = results(tmp_path / "out")["models"]
    assert (model["data"], model["leaks"]["missing"]) == ("trained on", 7)
    assert "7 of 77 training images are missing or changed" in (tmp_path / "out/bench.html").read_text()
    # Without a record, as in a run folder of an earlier version, nothing is known.
    assert explllm("bench", "fea", drawn_faces / "manifest.parquet", run, "-o", "out", *SHORT).status == 0
    [model] = results(tmp_path / "out")["models"]
    assert (model["data"], model["leaks"]) == ("unknown", None)
    assert "small: its training faces are unknown" in (tmp_path / "out/bench.html").read_text()


def test_validation_faces_are_not_tested(explllm, models, drawn_faces, tmp_path):
    """Thresholds are chosen neither on tested rows nor on other images of tested people."""
    manifest = drawn_faces / "manifest.parquet"
    command = ("bench", "fea", manifest, models / "expllm", "-o", "out", *SHORT)
    assert explllm(*command, "--split", "val").status == 0
    [model] = results(tmp_path / "out")["models"]
    assert not model["units_likelihood"]["calibrated"]
    assert set(model["units_likelihood"]["thresholds"].values()) == {0.5}
    frame = Manifest.read(manifest).frame
    person = frame.loc[frame["split"] == "test", "identity"].iloc[0]
    frame.loc[frame["split"] == "val", "identity"] = person
    frame = frame[(frame["split"] != "test") | (frame["identity"] == person)]
    Manifest(frame, drawn_faces).write(tmp_path / "people.parquet")
    command = ("bench", "fea", "people.parquet", models / "expllm", "-o", "out", "--root", drawn_faces, *SHORT)
    assert explllm(*command).status == 0
    assert results(tmp_path / "out")["validation"] == {"faces": 0, "left_out": 14}
    assert not results(tmp_path / "out")["models"][0]["units_likelihood"]["calibrated"]
    assert "14 validation faces share" in (tmp_path / "out/bench.html").read_text()


def test_errors_come_before_the_first_answer(explllm, models, drawn_faces, tmp_path):
    manifest, good = drawn_faces / "manifest.parquet", models / "feallm"
    frame = Manifest.read(manifest).frame
    frame = frame[frame["split"] == "test"][["image"]]
    frame.assign(image="x").iloc[:1].to_csv("bad.csv", index=False)
    for bad, message in (("bad.csv", "no answer about any test face"), ("nothing", "neither a model nor")):
        assert message in explllm("bench", "fea", manifest, good, bad, "-o", "out", *SHORT).error
    shutil.copytree(models / "expllm", "contempt")
    config = json.loads(Path("contempt/config.json").read_text())
    Path("contempt/config.json").write_text(json.dumps({**config, "labels": ["Contempt"]}))
    assert "chooses from Contempt" in explllm("bench", "fea", manifest, good, "contempt", "-o", "out", *SHORT).error
    assert "missing image" in explllm("bench", "fea", manifest, good, "-o", "out", "--root", tmp_path).error
    assert not list((tmp_path / "out").iterdir())
    # What only the weights reveal costs no result of an earlier model.
    Path("contempt/config.json").write_text(json.dumps(config))
    Path("contempt/model.safetensors").write_bytes(b"broken")
    assert explllm("bench", "fea", manifest, good, "contempt", "-o", "out", *SHORT).status == 2
    assert [model["name"] for model in results(tmp_path / "out")["models"]] == ["feallm"]
    assert results(tmp_path / "out")["pending"] == ["contempt"] and (tmp_path / "out/feallm.jsonl").is_file()
    assert "Still to run: contempt" in (tmp_path / "out/bench.html").read_text()


def test_answers_can_be_given_back(explllm, models, drawn_faces, tmp_path):
    """Two models of one name have two files; with the boxes in them, both are complete tables of answers."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    frame = frame[frame["split"] == "test"][:3]
    boxes = [[0.0, 0.0, 40.0, 64.0], [24.0, 0.0, 40.0, 64.0]]
    faces = pd.concat([frame.assign(box=[box] * len(frame)) for box in boxes])  # two faces in each image
    Manifest(faces, drawn_faces).write(tmp_path / "faces.parquet")
    for name in ("feallm", "expllm"):
        shutil.copytree(models / name, tmp_path / name / "run/model")
    command = ("bench", "fea", "faces.parquet", "--root", drawn_faces, "--max-new-tokens", 8)
    assert explllm(*command, "feallm/run", "expllm/run", "-o", "out").status == 0
    first = results(tmp_path / "out")["models"]
    assert [model["name"] for model in first] == ["run", "run-2"]
    # A given table is not overwritten by the answers of a model of its name.
    done = explllm(*command, "out/run.jsonl", "out/run-2.jsonl", "feallm/run", "-o", "out")
    assert done.status == 0, done.err
    second = results(tmp_path / "out")["models"]
    assert [model["name"] for model in second] == ["run", "run-2", "run-3"]
    assert len((tmp_path / "out/run-3.jsonl").read_text().splitlines()) == 6
    for one, other in ((first[0], second[0]), (first[1], second[1]), (first[0], second[2])):
        assert one["units_likelihood"] == other["units_likelihood"] and one["units_text"] == other["units_text"]
        assert one["expression"]["accuracy"] == other["expression"]["accuracy"]


def test_a_table_of_answers(explllm, drawn_faces, tmp_path):
    table = Manifest.read(drawn_faces / "manifest.parquet")
    frame = table.frame[table.frame["split"] == "test"].reset_index(drop=True)
    frame["predicted"] = ["", "no idea", "Freude", *frame["expression"][3:]]
    frame["p_active"] = ["AU6: yes", '{"Jaw Drop": "high"}', *['{"Jaw Drop": 0.9}'] * (len(frame) - 2)]
    frame.drop(columns="action_units").to_parquet("oracle.parquet")
    done = explllm("bench", "fea", drawn_faces / "manifest.parquet", "oracle.parquet", "-o", "out")
    assert done.status == 0, done.err
    [model] = json.loads((tmp_path / "out/bench.json").read_text())["models"]
    assert model["expression"]["accuracy"] == pytest.approx((len(frame) - 3) / len(frame))
    assert model["reasoning"]["parsed"] == 1 and model["reasoning"]["exp_cot_score"] == pytest.approx(1)
    assert model["units_text"]["mean_f1"] > 0.8 and model["units_likelihood"]["f1"]["Jaw Drop"] > 0
    assert (
        model["units_likelihood"]["unreadable"] == 2
        and "2 values are not prob" in (tmp_path / "out/bench.html").read_text()
    )
    frame = frame.drop(columns="p_active")
    frame["image"] = "x" + frame["image"]
    frame.to_parquet("oracle.parquet")
    error = explllm("bench", "fea", drawn_faces / "manifest.parquet", "oracle.parquet", "-o", "out").error
    assert "no answer about any test face" in error
    assert (
        "neither a model nor a table" in explllm("bench", "fea", drawn_faces / "manifest.parquet", ".", "-o", "o").error
    )
