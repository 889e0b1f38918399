"""Several processes train and test as one does. They talk over gloo, on the CPU."""

import csv
import json
import os
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
def run(small_config, tmp_path_factory):
    """Runs a command in a process of its own, which starts the others; returns what it printed."""
    folder = tmp_path_factory.mktemp("ddp")

    def call(command, *options, status=0):
        arguments = [sys.executable, "-m", "explllm", command, "--config", str(small_config), *map(str, options)]
        environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
        done = subprocess.run(
            arguments,
            cwd=folder,
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stderr[-3000:]
        return done

    call.folder = folder
    return call


# Without dropout, which each process draws for itself; the same global batch of 32, in micro-batches of 8.
SAME = ("--model.network.language.attention_dropout", 0.0, "--data.micro_batch_size", 8, "--trainer.max_epochs", 2)


@pytest.fixture(scope="module")
def pair(run):
    """The same run by one process and by two."""
    run("fit", *SAME, "--run_dir", "one")
    run("fit", *SAME, *TWO, "--run_dir", "two")
    return run.folder / "one", run.folder / "two"


def test_two_processes_learn_what_one_learns(pair):
    losses = []
    for folder in pair:
        with (folder / "logs/version_0/metrics.csv").open() as lines:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]])
    assert len(losses[0]) == 14
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)  # measured: 2e-6
    one, two = (load_file(folder / "model/model.safetensors") for folder in pair)
    # Batch norm's running figures are those of the first process's faces alone.
    for name in (name for name in one if "running_" not in name and "num_batches" not in name):
        # AdamW's first steps are as long for a gradient of rounding errors as for any other: single weights may differ.
        assert (one[name].float() - two[name].float()).abs().mean() < 1e-4, name
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in pair]
    assert [held["fit/steps"] for held in figures] == [14, 14]


@pytest.mark.parametrize("batch", [64, 5])
def test_two_processes_test_what_one_tests(pair, run, batch):
    """27 faces: one process has a row less, which is filled up and not counted."""
    found = []
    for options in ((), TWO):
        out = f"tested-{len(options)}-{batch}"
        last = ("--ckpt_path", pair[0] / "checkpoints/last.ckpt", "--run_dir", out, "--data.eval_batch_size", batch)
        done = run("test", *last, *options, "--explained_faces", 2)
        assert "on 27 faces" in done.stdout
        found.append(
            (
                json.loads((run.folder / out / "metrics.json").read_text()),
                pd.read_parquet(run.folder / out / "predictions.parquet"),
            )
        )
    (one, faces), (two, others) = found
    assert one["test/count"] == two["test/count"] == 27
    for name in ("accuracy", "macro_recall", "nll"):
        assert one[f"test/{name}"] == pytest.approx(two[f"test/{name}"], abs=1e-6)
    for name in ("predictions", "targets", "recall"):
        assert one[f"test/{name}"] == two[f"test/{name}"]
    assert list(faces["image"]) == list(others["image"])
    shares = faces.filter(like="p_").columns
    assert np.abs(faces[shares].to_numpy(float) - others[shares].to_numpy(float)).max() < 1e-5


def test_two_processes_resume_and_predict(pair, run):
    more = ("--trainer.max_epochs", 3, "--ckpt_path", "last", "--run_dir", "two")
    run("fit", *SAME, *more, *TWO)
    assert torch.load(pair[1] / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 21
    run("predict", *TWO, "--run_dir", "two", "--predictions", "found.csv")
    table = pd.read_csv(run.folder / "found.csv")
    assert len(table) == table["image"].nunique() == 97


def test_a_mistake_on_one_process_stops_both(run, drawn_faces):
    import shutil

    shutil.copytree(drawn_faces, run.folder / "broken")
    for name in ("train/00000-fear.png", "train/00003-anger.png", "test/00000-fear.png"):
        (run.folder / "broken" / name).write_bytes(b"no image")
    faces = ("--data.folder", "broken", "--run_dir", "broken-run", *TWO)
    err = run("fit", *faces, status=2).stderr
    assert "Traceback" not in err and err.count("\nerror: 1 image cannot be read, last ") == 1
    err = run("fit", *faces, "--data.max_unreadable", 2).stderr
    assert err.count("warning: image ") == 2
    held = json.loads((run.folder / "broken-run/metrics.json").read_text())
    assert len(held["fit/unreadable"]) == 2
    run("test", *faces, "--data.max_unreadable", 1, "--explained_faces", 0)
    held = json.loads((run.folder / "broken-run/metrics.json").read_text())
    assert held["test/count"] == 26 and len(held["test/unreadable"]) == 1
