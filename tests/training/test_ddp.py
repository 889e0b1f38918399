"""Two processes train and test as one does, under DDP with gloo on the CPU: all weights, batch norm, whole epochs."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TWO = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu")


@pytest.fixture(scope="module")
def broken_faces(drawn_faces, tmp_path_factory):
    """The drawn faces, with two unreadable images to train and one to test."""
    folder = tmp_path_factory.mktemp("broken") / "faces"
    shutil.copytree(drawn_faces, folder)
    for name in ("train/00000-fear.png", "train/00003-anger.png", "test/00000-fear.png"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def runs(small_config, broken_faces, on_ranks, tmp_path_factory):
    """The folder of the same runs by one process and by two."""
    folder = tmp_path_factory.mktemp("ddp")
    # Without dropout, which each process draws for itself; the same global batch of 32, in micro-batches of 8.
    same = ("--model.network.language.attention_dropout", 0.0, "--data.micro_batch_size", 8)
    fit = ("fit", "--config", small_config, *same, "--trainer.max_epochs")
    # 27 test faces: one process has a row less, which is filled up and not counted.
    test = ("test", "--ckpt_path", folder / "one/checkpoints/last.ckpt")
    test += ("--data.eval_batch_size", 5, "--explained_faces", 2, "--run_dir")
    predict = ("predict", "--predictions", "found.csv", "--run_dir", "two")
    broken = ("--config", small_config, "--data.folder", broken_faces, "--run_dir", "with unreadable", *TWO)
    one = [(*fit, 2, "--run_dir", "one"), (*test, "tested by one")]
    two = [
        (*fit, 2, "--run_dir", "two", *TWO),
        (*test, "tested by two", *TWO),
        (*fit, 3, "--ckpt_path", "last", "--run_dir", "two", *TWO),
        (*predict, "--ckpt_path", "last", *TWO),
        ("fit", *broken, "--data.max_unreadable", 2),
        ("test", *broken, "--data.max_unreadable", 1, "--explained_faces", 0),
    ]
    for count, commands in ((1, one), (2, two)):
        results = on_ranks(folder, *commands, count=count)
        for status, out, err in results:
            assert status == 0, out + err
    assert results[-2][2].count("warning: image ") == 2
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
    # The resumed run has no training face twice.
    records = [pd.read_parquet(runs / f"{name}/training_faces.parquet") for name in ("one", "two")]
    assert len(records[0]) == 70 and records[0]["image"].equals(records[1]["image"])
    shares = faces.filter(like="p_").columns
    assert np.abs(faces[shares].to_numpy(float) - others[shares].to_numpy(float)).max() < 1e-5


def test_two_processes_resume_and_predict(runs):
    one = load_file(runs / "one/model/model.safetensors")
    assert torch.load(runs / "two/checkpoints/last.ckpt", weights_only=True)["global_step"] == 21
    assert load_file(runs / "two/model/model.safetensors").keys() == one.keys()
    table = pd.read_csv(runs / "found.csv")
    assert len(table) == table["image"].nunique() == 97


def test_an_error_on_one_process_stops_both(small_config, broken_faces, launched, tmp_path):
    """The command starts its second process itself, as a user's does."""
    faces = ("--config", str(small_config), "--data.folder", broken_faces, "--run_dir", "run", *TWO)
    status, err = launched(tmp_path, "fit", *faces)
    assert status == 2, err[-3000:]
    assert "Traceback" not in err
    assert err.count("\nerror: 1 image cannot be read, last ") == 1


def test_two_processes_count_unreadable_images_together(runs):
    held = json.loads((runs / "with unreadable/metrics.json").read_text())
    assert len(held["fit/unreadable"]) == 2
    assert held["test/count"] == 26 and len(held["test/unreadable"]) == 1
