"""Settings that the commands settle themselves, and what they say."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from explllm.commands.lightning_cli import parse
from explllm.core.errors import ConfigError


def test_run_folder_by_default_is_named_after_the_configuration(explllm, small_settings, tmp_path):
    settings = {**small_settings, "run_dir": None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert explllm("fit", "--config", "mine.yaml", "--trainer.max_steps", 1).status == 0
    assert (tmp_path / "runs/mine/model").is_dir()
    again = explllm("fit", "--config", "mine.yaml", "--trainer.max_steps", 1, "--trainer.default_root_dir", "other")
    assert again.status == 0 and (tmp_path / "other/model").is_dir()


def test_bfloat16_where_the_processor_has_instructions_for_it(explllm, small_config, tmp_path):
    done = explllm("fit", "--config", small_config, "--trainer.precision", "bf16-mixed", "--trainer.max_steps", 1)
    on_gpu = torch.accelerator.is_available()
    expected = on_gpu or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    assert done.status == 0 and ("Note: using 32-true instead of bf16-mixed" not in done.out) == expected
    assert "precision: bf16-mixed" in (tmp_path / "runs/small/config.yaml").read_text()


def test_the_resolved_configuration_runs_again(explllm, small_config, tmp_path):
    options = ("--trainer.max_steps", 1, "--data.seed", 0, "--model.optimization.learning_rate", 0.002)
    assert explllm("fit", "--config", small_config, *options).status == 0
    first = (tmp_path / "runs/small/config.yaml").read_text()
    assert (
        explllm("fit", "--config", "runs/small/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", 2).status
        == 0
    )
    second = (tmp_path / "runs/small/config.yaml").read_text()
    # It says what the run is: resuming it changes nothing but what was changed.
    changed = set(first.splitlines()) ^ set(second.splitlines())
    assert {line.strip() for line in changed} <= {"max_steps: 1", "max_steps: 2"} | {
        line.strip() for line in changed if line.startswith("config:") or line.startswith("- ")
    }
    assert explllm("test", "--config", "runs/small/config.yaml", "--explained_faces", 0).status == 0


@pytest.fixture
def run_dir(fitted, tmp_path):
    """A copy of the trained run; its data may lie where it was."""
    return Path(shutil.copytree(fitted, tmp_path / "copy"))


def metrics(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


def test_evaluation_needs_nothing_but_the_run_folder(explllm, small_config, run_dir, tmp_path):
    assert explllm("test", "--config", small_config, "--run_dir", run_dir).status == 0
    first = metrics(run_dir)
    (run_dir / "metrics.json").unlink()
    done = explllm("test", "--run_dir", run_dir)
    assert (done.status, done.err) == (0, "")
    assert metrics(run_dir)["test/accuracy"] == first["test/accuracy"]
    assert metrics(run_dir)["test/nll"] == pytest.approx(first["test/nll"])
    tested = (run_dir / "predictions.parquet").read_bytes()
    # Data and evaluation options may change.
    assert explllm("predict", "--run_dir", run_dir, "--data.eval_batch_size", 5).status == 0
    assert (run_dir / "predictions.parquet").read_bytes() == tested
    table = pd.read_parquet(run_dir / "predict/predictions.parquet")
    assert len(table) == 56 + 14 + 27 and table["predicted"].notna().all()
    assert json.loads(explllm("score", run_dir, "--json").out)["recognition"]["count"] == 27


def test_evaluation_refuses_another_model(explllm, small_settings, small_config, run_dir, tmp_path):
    (run_dir / "metrics.json").write_text("{}")
    run = ("test", "--run_dir", run_dir)
    for option, value, recorded in (
        ("model.network.image_preset", "dinov2", "not set"),
        ("model.network.chat_format", "vicuna", "not set"),
        ("model.network.vision_lora.r", 4, 8),
        ("model.network.labels", "rafdb", "not set"),
        ("data.margin", 0.3, 0.1),
    ):
        for command in (run, ("test", "--config", small_config, "--run_dir", run_dir)):
            error = explllm(*command, f"--{option}", value).error
            assert f"--{option} is {value}, but the run was trained with {recorded}" in error
    settings = json.loads(json.dumps(small_settings))
    settings["model"]["init_args"]["network"]["image_preset"] = "dinov2"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    last = run_dir / "checkpoints/last.ckpt"
    for named in (("--run_dir", run_dir), ("--ckpt_path", last)):
        error = explllm("test", "--config", "other.yaml", *named).error
        assert "--model.network.image_preset is dinov2, but the run was trained with not set" in error
    assert metrics(run_dir) == {}
    # The command line wins over the configuration: here it states what the run recorded.
    settings["model"]["init_args"]["network"] = small_settings["model"]["init_args"]["network"] | {
        "vision_lora": {"r": 4}
    }
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    same = ("--model.network.vision_lora.r", 8)
    assert explllm("test", "--config", "other.yaml", "--run_dir", run_dir, *same).status == 0
    assert "the run does not exist [gone]. Check --run_dir" in explllm("test", "--run_dir", "gone").error
    assert "the run folder has no config.yaml" in explllm("test", "--run_dir", tmp_path).error


def test_the_best_checkpoint(explllm, small_config):
    best = ("--ckpt_path", "best")
    error = explllm("test", "--config", small_config, *best).error
    assert "the checkpoint does not exist [runs/small/checkpoints/best.ckpt]" in error
    # A ModelCheckpoint of the user's own is no obstacle to evaluation.
    keep = ("--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.monitor", "val/accuracy")
    assert explllm("fit", "--config", small_config, *keep).status == 0
    assert explllm("test", "--run_dir", "runs/small", *best).status == 0


def test_settings_on_the_command_line_win(small_config):
    config = parse(
        "fit", ["--config", str(small_config), "--data.batch_size", "64", "--model.optimization.warmup_steps=5"]
    )
    assert config.data.init_args.batch_size == 64
    assert config.data.init_args.micro_batch_size == 16
    assert config.model.init_args.optimization.warmup_steps == 5


def test_parsing_errors_are_input_errors(small_config):
    with pytest.raises(ConfigError, match="unknown key data.walk"):
        parse("fit", ["--config", str(small_config), "--data.walk", "3"])


def test_nothing_is_said_that_says_nothing(explllm, small_config):
    """A run of each command leaves stderr empty and raises no warning."""
    with warnings.catch_warnings(record=True) as caught:
        for command in ("fit", "validate", "test", "predict"):
            done = explllm(command, "--config", small_config, *(("--explained_faces", 1) if command == "test" else ()))
            assert done.status == 0
            assert done.err == ""
    said = [str(warning.message) for warning in caught if not issubclass(warning.category, DeprecationWarning)]
    assert said == []


def test_callbacks_and_logger_of_the_user_are_kept(explllm, small_settings, tmp_path):
    settings = yaml.safe_load(yaml.safe_dump(small_settings))
    settings["trainer"] |= {
        "max_steps": 2,
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}],
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "mine"}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert explllm("fit", "--config", "mine.yaml").status == 0
    [log] = (tmp_path / "mine").rglob("metrics.csv")
    assert "lr-AdamW" in log.read_text().splitlines()[0]
    assert not (tmp_path / "runs/small/logs").exists()


@pytest.mark.slow
def test_the_progress_bar_shows_loss_and_accuracy(small_config, tmp_path):
    command = [sys.executable, "-m", "explllm", "fit", "--config", str(small_config)]
    command += ["--trainer.enable_progress_bar", "true", "--live_accuracy_every_n_steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    [bar] = [line for line in done.stdout.splitlines() if line.startswith("Epoch 0/0")]
    assert "14/14" in bar and "train/loss: " in bar and "train/accuracy: " in bar and "v_num" not in bar
