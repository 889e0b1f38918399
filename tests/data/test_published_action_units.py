"""From fake copies of FEAFA, DISFA and BP4D through their readers to a regressor that is trained and tested on them."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from explllm.core.action_units import NAMES
from explllm.core.facs import facs_set
from explllm.core.manifest import Manifest
from explllm.metrics.facs import facs_intensities
from explllm.models.au_regressor import ActionUnitRegressor

VISION = {"model_type": "explllm_conv", "hidden_sizes": [8, 8, 16], "depths": [1, 1, 1]}
SMALL = (
    *("--config", "aus_feafa.yaml", "--run_dir", "run", "--trainer.accelerator", "cpu", "--trainer.max_steps", "2"),
    *("--trainer.enable_progress_bar", "false", "--model.network.vision", json.dumps(VISION)),
    *("--model.network.vision_train", "full", "--model.network.image_preset", "small"),
    *("--model.network.image_size", "32", "--model.network.head_width", "8", "--data.batch_size", "2"),
    *("--data.micro_batch_size", "1", "--data.num_workers", "0", "--data.val_fraction", "0.25"),
)
"""The recipe for FEAFA, on two faces a step and an encoder that needs no download."""


@pytest.fixture(scope="module")
def trained(publishers, tmp_path_factory) -> Path:
    """A folder with FEAFA's manifest and the run that learned from it, two steps long; tests must not change it."""
    from explllm.cli import main

    folder = tmp_path_factory.mktemp("feafa")
    publishers.feafa(folder / "FEAFA")
    with contextlib.chdir(folder):
        assert main(["data", "feafa", "FEAFA", "-o", "feafa.parquet", "--fold", "1"]) == 0
        assert main(["fit", *SMALL, "--data.manifest", "feafa.parquet", "--data.root", "FEAFA"]) == 0
    return folder


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_feafa_from_its_folder_to_the_metrics(trained, explllm):
    run = trained / "run"
    assert figures(run)["fit/steps"] == 2
    assert figures(run)["training_data_note"] == "Action unit labels by: FEAFA's annotators."
    last = ("--ckpt_path", run / "checkpoints/last.ckpt")
    table = ("--data.manifest", trained / "feafa.parquet", "--data.root", trained / "FEAFA")
    done = explllm("test", *table, *last, "--run_dir", "tested")
    assert done.status == 0, done.err
    found = Manifest.read("tested/predictions.parquet").frame
    given = Manifest.read(trained / "feafa.parquet").frame
    # Of the fake copy, every unit of a person has a tenth of the person's number.
    assert list(found["image"]) == list(given["image"][given["split"] == "test"]) and len(found) == 2
    assert set(found["identity"]).isdisjoint(given["identity"][given["split"] == "train"])
    estimates, truth = (np.array(found[name].tolist()) for name in ("action_units", "action_units_true"))
    assert truth == pytest.approx(np.array([[int(person[1:]) / 10] * 24 for person in found["identity"]]))
    held = figures(Path("tested"))
    assert held["test/mae"] == pytest.approx(np.abs(estimates - truth).mean(), abs=1e-6)
    # One person alone: no unit varies.
    assert held["test/faces"] == 2 and held["test/left_out"] == list(NAMES) and held["test/pearson"] is None
    model = ActionUnitRegressor.from_pretrained(run / "model")
    images = [trained / "FEAFA" / image for image in found["image"]]
    assert np.array(model.estimate(images)) == pytest.approx(estimates, abs=1e-5)


@pytest.mark.parametrize(("name", "labels", "faces"), [("disfa", "disfa8", 3), ("bp4d", "bp4d12", 2)])
def test_facs_sets_from_their_folders_to_f1(trained, publishers, explllm, tmp_path, name, labels, faces):
    root = getattr(publishers, name)(tmp_path / "set")
    for fold in (1, 2, 3):
        assert explllm("data", name, root, "-o", "facs.parquet", "--fold", fold).status == 0
        given = Manifest.read("facs.parquet").frame
        if "test" in set(given["split"]):
            break
    units = facs_set(labels)
    model = ActionUnitRegressor.from_pretrained(trained / "run/model")
    estimates = model.estimate([root / image for image in given["image"][given["split"] == "test"]])
    grades = facs_intensities(torch.tensor(estimates), units).numpy()
    # So that some units count as active, although two steps have taught nothing.
    active_from = float(np.nanquantile(grades, 0.45))
    more = ("--data.manifest", "facs.parquet", "--data.root", root, "--model.facs_active_from", active_from)
    last = ("--ckpt_path", trained / "run/checkpoints/last.ckpt")
    done = explllm("test", *more, *last, "--run_dir", "tested")
    assert done.status == 0, done.err
    facs = figures(Path("tested"))["test/facs"]
    found = Manifest.read("tested/predictions.parquet").frame
    assert facs["faces"] == len(found) == faces
    assert np.array(found["action_units"].tolist()) == pytest.approx(np.array(estimates), abs=1e-5)
    truth = np.array(found["facs"].tolist())
    active = grades >= active_from
    assert truth.any() and active.any() and not active.all()
    for place, unit in enumerate(units):
        score = facs["f1"][f"AU{unit.number}"]
        assert facs["active"][f"AU{unit.number}"] == truth[:, place].sum()
        if score is not None:
            assert score == pytest.approx(f1_score(truth[:, place], active[:, place]))
    assert facs["mean_f1"] > 0
