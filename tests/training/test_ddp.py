"""Two processes train and test as one does, under DDP with gloo on the CPU: all weights, batch norm, whole epochs."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TWO = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu")


@pytest.fixture(scope="module")
def runs(small_config, on_ranks, tmp_path_factory):
    """The folder of the same runs by one process and by two."""
    folder = tmp_path_factory.mktemp("ddp")
    # Without dropout, which each process draws for itself; the same global batch of 32, in micro-batches of 8.
    same = ("--model.network.language.attention_dropout", 0.0, "--data.micro_batch_size", 8)
    fit = ("fit", "--config", small_config, *same, "--trainer.max_epochs")
    # 27 test faces: one process has a row less, which is filled up and not counted.
    test = ("test", "--ckpt_path", folder / "one/checkpoints/last.ckpt")
    test += ("--data.eval_batch_size", 5, "--explained_faces", 2, "--run_dir")
    predict = ("predict", "--predictions", "found.csv", "--run_dir", "two")
    one = [(*fit, 2, "--run_dir", "one"), (*test, "tested by one")]
    two = [
        (*fit, 2, "--run_dir", "two", *TWO),
        (*test, "tested by two", *TWO),
        (*fit, 3, "--ckpt_path", "last", "--run_dir", "two", *TWO),
        (*predict, "--ckpt_path", "last", *TWO),
    ]
    for count, commands in ((1, one), (2, two)):
        for status, out, err in on_ranks(folder, *commands, count=count):
            assert status == 0, out + err
    return folder


def test_two_processes_learn_what_one_learns(runs):
    losses = []
    for name in ("one", "two"):
        with (runs / name / "logs/version_0/metrics.csv").open() as lines:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]])
    assert len(losses[0]) == 14
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)  # measured: 2e-6


def test_two_processes_test_what_one_tests(runs):
    (one, faces), (two, others) = (
        (
            json.loads((runs / f"tested by {name}/metrics.json").read_text()),
            pd.read_parquet(runs / f"tested by {name}/predictions.parquet"),
        )
        for name in ("one", "two")
    )
    assert one["test/count"] == two["test/count"] == 27
    for name in ("accuracy", "macro_recall", "nll"):
        assert one[f"test/{name}"] == pytest.approx(two[f"test/{name}"], abs=1e-6)
    for name in ("predictions", "targets", "recall"):
        assert one[f"test/{name}"] == two[f"test/{name}"]
    assert list(faces["image"]) == list(others["image"])
    shares = faces.filter(like="p_").columns
    assert np.abs(faces[shares].to_numpy(float) - others[shares].to_numpy(float)).max() < 1e-5


def test_two_processes_resume_and_predict(runs):
    one = load_file(runs / "one/model/model.safetensors")
    assert torch.load(runs / "two/checkpoints/last.ckpt", weights_only=True)["global_step"] == 21
    assert load_file(runs / "two/model/model.safetensors").keys() == one.keys()
    table = pd.read_csv(runs / "found.csv")
    assert len(table) == table["image"].nunique() == 97


def test_an_error_on_one_process_stops_both(small_config, drawn_faces, on_ranks, tmp_path):
    """The first command starts its second process itself, as a user's does."""
    shutil.copytree(drawn_faces, tmp_path / "broken")
    for name in ("train/00000-fear.png", "train/00003-anger.png", "test/00000-fear.png"):
        (tmp_path / "broken" / name).write_bytes(b"no image")
    faces = ("--config", str(small_config), "--data.folder", "broken", "--run_dir", "run", *TWO)
    done = subprocess.run(
        [sys.executable, "-m", "explllm", "fit", *faces],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\nerror: 1 image cannot be read, last ") == 1
    fit, test = on_ranks(
        tmp_path,
        ("fit", *faces, "--data.max_unreadable", 2),
        ("test", *faces, "--data.max_unreadable", 1, "--explained_faces", 0),
    )
    assert fit[0] == test[0] == 0 and fit[2].count("warning: image ") == 2
    held = json.loads((tmp_path / "run/metrics.json").read_text())
    assert len(held["fit/unreadable"]) == 2
    assert held["test/count"] == 26 and len(held["test/unreadable"]) == 1
