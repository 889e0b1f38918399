"""The action unit regressor, trained, tested and used by the commands."""

import csv
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from explllm.commands.lightning_cli import parse
from explllm.core.action_units import DISFA_8, NAMES
from explllm.core.errors import ConfigError
from explllm.core.manifest import Manifest
from explllm.drawn_faces.dataset import draw_faces
from explllm.metrics.au_regression import action_unit_agreement
from explllm.models.au_regressor import ActionUnitRegressor
from explllm.training.au_task import ActionUnitTask, regression_loss
from explllm.training.footprint import describe_configuration

NOTICE = "The faces are drawn by a program, not photographs."
STEPS = 120


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """More faces than in other tests: 40 people for training."""
    return draw_faces(tmp_path_factory.mktemp("faces") / "drawn", train=280, val=28, test=27, size=48).root


@pytest.fixture(scope="module")
def au_settings(people) -> dict:
    """A run of a few seconds: a tiny encoder on 280 drawn faces."""
    return {
        "seed_everything": 1,
        "run_dir": "runs/aus",
        "model": {
            "class_path": "ActionUnitTask",
            "init_args": {
                "network": {
                    "vision": {"model_type": "explllm_conv", "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1]},
                    "vision_train": "full",
                    "image_preset": "small",
                    "image_size": 48,
                    "head_width": 32,
                },
                "optimization": {"learning_rate": 3e-3},
            },
        },
        "data": {
            "class_path": "DrawnActionUnits",
            "init_args": {
                "folder": str(people),
                "train": 280,
                "val": 28,
                "test": 27,
                "size": 48,
                "batch_size": 28,
                "micro_batch_size": 14,
                "augment": {"class_path": "Augment", "init_args": {"rotation": 0, "scale": 0, "erase": 0}},
            },
        },
        "trainer": {"max_epochs": 12, "gradient_clip_val": 1.0, "accelerator": "cpu", "enable_progress_bar": False},
    }


@pytest.fixture(scope="module")
def au_config(au_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "aus.yaml"
    path.write_text(yaml.safe_dump(au_settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def au_fitted(au_config, tmp_path_factory):
    """The run folder of a regressor after 120 steps; tests must not change it."""
    from explllm.cli import main

    run_dir = tmp_path_factory.mktemp("fitted") / "aus"
    assert main(["fit", "--config", str(au_config), "--run_dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture
def command(explllm, au_config, au_fitted, tmp_path):
    shutil.copytree(au_fitted, tmp_path / "run")
    return lambda name, *options: explllm(name, "--config", au_config, "--run_dir", "run", *options)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_fit_leaves(au_fitted):
    names = {path.relative_to(au_fitted).as_posix() for path in au_fitted.rglob("*") if path.is_file()}
    assert {"config.yaml", "checkpoints/last.ckpt", "metrics.json", "logs/version_0/metrics.csv"} <= names
    assert {"model/config.json", "model/model.safetensors"} <= names
    assert not {name for name in names if "partial" in name}
    held = metrics(au_fitted)
    assert held["fit/steps"] == STEPS and held["training_data_note"] == NOTICE
    config = json.loads((au_fitted / "model/config.json").read_text())
    assert config["training_data_note"] == NOTICE and config["margin"] == 0.1
    saved = ActionUnitRegressor.from_pretrained(au_fitted / "model").state_dict()
    for name, value in torch.load(au_fitted / "checkpoints/best.ckpt", weights_only=True)["state_dict"].items():
        assert torch.equal(saved[name.removeprefix("model.")], value), name


def test_it_learns(au_fitted):
    """On 28 faces of unseen people, after a few seconds; the correlation of an untrained model is about 0."""
    with (au_fitted / "logs/version_0/metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    values = [float(row["val/pearson"]) for row in rows if row["val/pearson"]]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:2])
    assert values[-1] > 0.3 and abs(values[0]) < 0.2  # measured: 0.43 and 0.03


def test_test_against_independent_figures(command, tmp_path, people):
    done = command("test")
    assert done.status == 0 and done.err == ""
    table = pd.read_parquet(tmp_path / "run/predictions.parquet")
    frame = Manifest.read(people / "manifest.parquet").frame
    expected = frame[frame["split"] == "test"]
    assert list(table["image"]) == list(expected["image"])
    assert set(table["action_units_source"]) == {"explllm run"} and set(table["action_units_true_source"]) == {"drawn"}
    labels, found = (np.array(table[name].tolist()) for name in ("action_units_true", "action_units"))
    assert labels == pytest.approx(np.array(expected["action_units"].tolist()))
    model = ActionUnitRegressor.from_pretrained(tmp_path / "run/model")
    images = [people / image for image in table["image"].iloc[:4]]
    assert np.array(model.estimate(images)) == pytest.approx(found[:4], abs=1e-5)
    held = metrics(tmp_path / "run")
    rows = held["test/by_unit"]
    for place, unit in enumerate(NAMES):
        assert rows[unit]["mae"] == pytest.approx(np.abs(found - labels)[:, place].mean(), abs=1e-6)
        assert rows[unit]["pearson"] == pytest.approx(pearsonr(found[:, place], labels[:, place])[0], abs=1e-5)
    assert held["test/pearson"] == pytest.approx(np.mean([row["pearson"] for row in rows.values()]))
    assert held["test/faces"] == 27 and held["fit/steps"] == STEPS
    with (tmp_path / "run/action_units.csv").open() as lines:
        written = {row["unit"]: row for row in csv.DictReader(lines)}
    assert list(written) == list(NAMES)
    assert float(written["Jaw Drop"]["icc"]) == rows["Jaw Drop"]["icc"]
    assert (tmp_path / "run/plots/action_units.png").read_bytes().startswith(b"\x89PNG")
    said = " ".join(done.out.split())
    assert NOTICE in said and "Left Lip Corner Stretch" in said and f"Pearson {held['test/pearson']:.3f}" in said


def test_validate_and_predict(command, tmp_path, people):
    done = command("validate")
    assert done.status == 0 and "on 28 faces" in done.out
    assert metrics(tmp_path / "run")["val/faces"] == 28
    bare = Manifest.read(people / "manifest.parquet")
    bare.frame = bare.frame[["image"]].iloc[:5]
    bare.write(tmp_path / "bare.csv")
    given = ("--data", "ManifestActionUnits", "--data.manifest", tmp_path / "bare.csv", "--data.root", people)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    config["data"] = {"class_path": "ManifestActionUnits", "init_args": {"manifest": "x"}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    done = command("predict", "--config", tmp_path / "other.yaml", *given, "--run_dir", "run", "--predictions", "p.csv")
    assert done.status == 0, done.err
    found = Manifest.read(tmp_path / "p.csv").frame
    assert len(found) == 5 and all(len(units) == 24 for units in found["action_units"])


def test_facs_labels_give_f1_and_missing_units(command, tmp_path, people):
    """Drawn faces with FACS labels derived from their intensities, in the layout of the DISFA reader."""
    manifest = Manifest.read(people / "manifest.parquet")
    frame = manifest.frame.drop(columns=["cot", "cot_source", "action_units", "action_units_source", "expression"])
    units = np.array(manifest.frame["action_units"].tolist())
    truth = np.zeros((len(frame), 8), int)
    truth[:, DISFA_8.index(12)] = units[:, [NAMES.index("Left Lip Corner Pull")]].max(1) >= 0.25
    truth[:, DISFA_8.index(25)] = 1
    frame["facs"], frame["facs_set"] = list(truth.tolist()), "disfa8"
    Manifest(frame, manifest.root).write(tmp_path / "disfa.parquet")
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    config["data"] = {
        "class_path": "ManifestActionUnits",
        "init_args": {"manifest": "disfa.parquet", "root": str(people)},
    }
    (tmp_path / "disfa.yaml").write_text(yaml.safe_dump(config))
    done = command("test", "--config", tmp_path / "disfa.yaml", "--run_dir", "run")
    assert done.status == 0, done.err
    facs = metrics(tmp_path / "run")["test/facs"]
    assert facs["missing"] == ["AU6", "AU25"] and facs["f1"]["AU25"] is None and facs["faces"] == 27
    table = pd.read_parquet(tmp_path / "run/predictions.parquet")
    found = np.array(table["action_units"].tolist())
    pulled = found[:, [NAMES.index(f"{side} Lip Corner Pull") for side in ("Left", "Right")]].max(1) >= 0.25
    expected = f1_score(truth[manifest.frame["split"] == "test", DISFA_8.index(12)], pulled)
    assert facs["f1"]["AU12"] == pytest.approx(expected)
    said = " ".join(done.out.split())
    assert "AU25 Lips Part" in said and "missing" in said and "AU6, AU25 cannot be estimated" in said
    assert "test/pearson" not in metrics(tmp_path / "run")


def test_a_resumed_run_is_the_unbroken_one(explllm, au_config, au_fitted, tmp_path):
    """A run killed inside an optimizer step and resumed ends with bit-identical weights."""
    step, seen = ActionUnitTask.training_step, []

    class Killed(Exception):
        """Simulates kill -9."""

    def killed(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == 40:
            raise Killed
        return step(self, batch, batch_idx)

    run = ("--config", au_config, "--run_dir", "again", "--checkpoint_every_n_steps", 1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ActionUnitTask, "training_step", killed)
        explllm("fit", *run)
    resumed = explllm("fit", *run, "--ckpt_path", "last")
    assert resumed.status == 0 and "resuming from step 19" in resumed.out
    assert metrics(tmp_path / "again")["fit/steps"] == STEPS
    whole, parts = (ActionUnitRegressor.from_pretrained(tmp_path / name / "model") for name in (au_fitted, "again"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_mistakes(explllm, au_config, au_fitted, fitted, small_config, tmp_path, au_settings):
    other = explllm("test", "--config", au_config, "--ckpt_path", fitted / "checkpoints/last.ckpt")
    assert "--model is ActionUnitTask, but the run was trained with ExpLLMTask" in other.error
    other = explllm("test", "--config", small_config, "--ckpt_path", au_fitted / "checkpoints/last.ckpt")
    assert "--model is ExpLLMTask, but the run was trained with ActionUnitTask" in other.error
    mixed = {**au_settings, "data": {"class_path": "FolderFaces", "init_args": {"root": "x"}}}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(mixed))
    assert "ActionUnitTask cannot use FolderFaces" in explllm("fit", "--config", "mixed.yaml").error
    small = ("--model.network.vision", json.dumps(au_settings["model"]["init_args"]["network"]["vision"]))
    train = ("--model.network.vision_train", "full")
    assert "the manifest does not exist" in explllm("fit", "--config", "aus_feafa.yaml", *small, *train).error
    with pytest.raises(ConfigError, match="got -1 and"):
        ActionUnitTask(ccc_weight=-1)
    with pytest.raises(ConfigError, match="got 1.0 and 0"):
        ActionUnitTask(facs_active_from=0)


def test_without_onnx_the_training_is_not_lost(explllm, au_config, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = explllm("fit", "--config", au_config, "--trainer.max_steps", 1)
    assert done.status == 0 and "a model cannot be written as ONNX" in done.err
    assert (tmp_path / "runs/aus/model").is_dir() and not (tmp_path / "runs/aus/au_regressor.onnx").exists()
    assert metrics(tmp_path / "runs/aus")["fit/onnx_difference"] is None


@pytest.mark.parametrize("broken", ["torch.onnx.export", "onnxruntime.InferenceSession"])
def test_an_export_that_fails_costs_nothing_else(explllm, au_config, monkeypatch, tmp_path, broken):
    def fail(*arguments, **options):
        raise RuntimeError("it cannot")

    monkeypatch.setattr(broken, fail)
    done = explllm("fit", "--config", au_config, "--trainer.max_steps", 1)
    assert done.status == 0 and done.err.startswith("warning: no runs/aus/au_regressor.onnx: "), done.err
    held = metrics(tmp_path / "runs/aus")
    assert held["fit/steps"] == 1 and held["fit/onnx_difference"] is None and held["training_data_note"] == NOTICE
    assert ActionUnitRegressor.from_pretrained(tmp_path / "runs/aus/model")


def test_names_that_look_like_markup(explllm, au_config, tmp_path, people):
    options = ("--config", au_config, "--run_dir", "runs/a[/i]", "--trainer.max_steps", 1)
    done = explllm("fit", *options)
    assert done.status == 0 and "model: runs/a[/i]/model" in done.out and "onnx: runs/a[/i]/au_" in done.out
    named = Manifest.read(people / "manifest.parquet")
    named.frame["action_units_source"] = "[/b]somebody"
    named.write(tmp_path / "named.parquet")
    config = yaml.safe_load((tmp_path / "runs/a[/i]/config.yaml").read_text())
    config["data"] = {
        "class_path": "ManifestActionUnits",
        "init_args": {"manifest": "named.parquet", "root": str(people)},
    }
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(config))
    done = explllm("test", "--config", "named.yaml", "--run_dir", "runs/a[/i]")
    assert done.status == 0, done.err
    for said in ("predictions: runs/a[/i]/pred", "by unit: runs/a[/i]/act", "Action unit labels by: [/b]somebody."):
        assert said in done.out


def test_validation_before_the_first_step(explllm, au_config, au_settings):
    """Two micro-batches make a step; after the first there is no loss yet."""
    done = explllm("fit", "--config", au_config, "--trainer.max_steps", 1, "--trainer.val_check_interval", 1)
    assert done.status == 0 and "step 0: val Pearson" in done.out and "step 1: loss " in done.out


def test_describe():
    found = describe_configuration(parse("fit", ["--config", "aus_feafa.yaml"]), images=1000)
    assert {part.name: part.trainable for part in found.parts}["vision"] == 786_432
    assert (found.steps, found.warmup, found.memory) == (5 * (1000 // 64), 4, [])
    assert describe_configuration(parse("fit", ["--config", "demo_aus.yaml"])).images == 1400


def test_the_loss():
    torch.manual_seed(0)
    found, labels = torch.rand(6, 24, requires_grad=True), torch.rand(6, 24)
    masked = labels.clone()
    masked[:, 3], masked[0, 5] = torch.nan, torch.nan
    loss = regression_loss(found, masked, 1.0)
    known = ~masked.isnan()
    error = (found - labels)[known].square().mean()
    ccc = action_unit_agreement(found.detach(), masked).ccc
    # The constant in the denominator changes the third digit.
    assert loss.item() == pytest.approx(10 * error.item() + 1 - float(ccc[~ccc.isnan()].mean()), rel=5e-3)
    assert regression_loss(found, masked, 0).item() == pytest.approx(10 * error.item())
    loss.backward()
    assert found.grad.isfinite().all()
    assert (found.grad[:, 3] == 0).all() and found.grad[0, 5] == 0
    assert (found.grad[known] != 0).all()
    nothing = regression_loss(found, torch.full((6, 24), torch.nan), 1.0)
    nothing.backward()
    assert nothing.item() == 0


@pytest.mark.slow
def test_two_processes_do_what_one_does(au_config, au_fitted, on_ranks, tmp_path):
    """A test of 27 faces on ranks of 14 and 13, and two more epochs, which are the same under both strategies."""
    two = ("--trainer.devices", 2, "--trainer.accelerator", "cpu", "--trainer.strategy")
    last = au_fitted / "checkpoints/last.ckpt"
    epochs = ("--trainer.max_epochs", 14, "--data.augment", "null")

    def commands(name, *options):
        common = ("--config", au_config, "--ckpt_path", last, *options)
        return [("fit", *common, *epochs, "--run_dir", name), ("test", *common, "--run_dir", name)]

    done = on_ranks(tmp_path, commands("one")[1], count=1)
    done += on_ranks(tmp_path, *commands("ddp", *two, "ddp"), *commands("fsdp2", *two, "fsdp2"))
    assert [status for status, _, _ in done] == [0] * 5, [err[-2000:] for _, _, err in done]
    expected = metrics(tmp_path / "one")
    for name in ("ddp", "fsdp2"):
        result = metrics(tmp_path / name)
        assert result["test/faces"] == expected["test/faces"] == 27
        for unit, row in expected["test/by_unit"].items():
            assert result["test/by_unit"][unit] == pytest.approx(row, abs=1e-5)
        assert result["fit/loss"] == pytest.approx(metrics(tmp_path / "ddp")["fit/loss"], abs=1e-4)
        assert result["fit/onnx_difference"] < 1e-4
