"""Checkpoint files: written atomically, loaded without executing code, and limited to trained weights."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from explllm import ExpLLM
from explllm.core.errors import CheckpointError, ConfigError
from explllm.core.manifest import Manifest
from explllm.models.storage import WEIGHTS
from explllm.training.callbacks.live_accuracy import LiveAccuracy
from explllm.training.checkpoints import (
    AtomicCheckpointIO,
    LastCheckpoint,
)


def content(number):
    return {"state_dict": {"weight": torch.full((500_000,), float(number))}, "labels": [], "number": number}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(checkpoint, stream):
    stream.write(b"half of it")
    stream.flush()
    die()


@pytest.mark.parametrize(
    ("module", "function", "action"), [(torch, "save", write_half), (os, "fsync", die), (os, "replace", die)]
)
def test_a_kill_leaves_the_checkpoint_before(tmp_path, module, function, action):
    """A process killed at any point of the write leaves the old file; the next write replaces the partial one."""
    path = tmp_path / "checkpoints/last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)

    def write():
        # A forked process lacks the threads of its parent's arithmetic and would wait for them.
        torch.set_num_threads(1)
        setattr(module, function, action)
        AtomicCheckpointIO().save_checkpoint(content(2), path)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {found.name for found in path.parent.iterdir()} == {"last.ckpt", ".last.ckpt.partial"}
    held = AtomicCheckpointIO().load_checkpoint(path)
    assert held["number"] == 1 and torch.equal(held["state_dict"]["weight"], content(1)["state_dict"]["weight"])
    AtomicCheckpointIO().save_checkpoint(content(3), path)
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(path)["number"] == 3


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)

    def full(checkpoint, stream):
        stream.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint(content(2), path)
    assert AtomicCheckpointIO().load_checkpoint(path)["number"] == 1


class Malice:
    def __reduce__(self):
        return os.system, ("exit 0",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "the file is truncated or not a checkpoint"),
        (lambda path: path.write_text("no checkpoint"), "the file is truncated or not a checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps(Malice())), "the file is truncated or not a checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "the file is truncated or not a checkpoint"),
        (lambda path: torch.save(content(1) | {"more": Malice()}, path), "contains pickled objects"),
        (lambda path: torch.save({"state_dict": {}}, path), "the checkpoint belongs to another kind of model"),
        (lambda path: torch.save([1, 2], path), "the checkpoint belongs to another kind of model"),
        (lambda path: shutil.make_archive(path.with_suffix(""), "zip", path.parent), "the file cannot be read"),
    ],
    ids=["empty", "text", "pickle", "truncated", "with code", "of another program", "a list", "another archive"],
)
def test_files_that_are_no_checkpoints(tmp_path, make, message):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    make(path)
    if path.with_suffix(".zip").exists():
        path.with_suffix(".zip").rename(path)
    with pytest.raises(CheckpointError, match=rf"{message}.* \[.*last.ckpt\]"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_how_often():
    with pytest.raises(ConfigError, match="`every_n_steps` must be at least 1, got 0"):
        LastCheckpoint("run", every_n_steps=0)


def test_only_what_trains_is_kept(explllm, lora_config, bases, tmp_path):
    assert explllm("fit", "--config", lora_config).status == 0
    held = torch.load(tmp_path / "runs/lora/checkpoints/last.ckpt", weights_only=True)
    names = {name.removeprefix("model.") for name in held["state_dict"]}
    assert names == {name.removeprefix("model.") for name in held["trains"]}
    assert all("lora_" in name or name.startswith("projector.") for name in names)
    assert any(name.startswith("vision.") for name in names) and any(name.startswith("language.") for name in names)
    assert {value.dtype for value in held["state_dict"].values()} == {torch.float32}
    kept = sum(value.numel() for value in held["state_dict"].values())
    assert kept == 2 * 2 * 2 * 2 * 64 + 32 * 32 + 32 + 32 * 32 + 32
    # The optimizer state has two moments per trainable weight and one step count per tensor.
    moments = sum(value.numel() for state in held["optimizer_states"][0]["state"].values() for value in state.values())
    assert moments == 2 * kept + len(names)
    # The run can be tested, with one explained face, and resumed.
    assert explllm("test", "--config", lora_config, "--explained_faces", 1).status == 0
    assert explllm("fit", "--config", lora_config, "--ckpt_path", "last", "--trainer.max_steps", 3).status == 0


def test_a_base_of_an_earlier_stage_is_kept(explllm, lora_config, drawn_faces, tmp_path):
    """Stage A trains both parts in full; stage B starts from it, inherits its image size and format, and freezes."""
    fit = ("fit", "--config", lora_config, "--trainer.max_steps")
    full = ("--model.network.vision_train", "full", "--model.network.language_train", "full")
    full += ("--model.network.image_size", 42, "--model.network.chat_format", "plain")
    assert explllm(*fit, 1, *full, "--run_dir", "a").status == 0
    settings = yaml.safe_load(lora_config.read_text())
    network = settings["model"]["init_args"]["network"]
    for setting in ("image_preset", "image_size", "chat_format"):
        del network[setting]
    network["vision_train"] = "frozen"
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(settings))
    fit = ("fit", "--config", "b.yaml", "--run_dir", "b", "--trainer.max_steps")
    assert explllm(*fit, 1, "--model.init_from", "a/model").status == 0
    assert explllm("convert", "checkpoint", "b/checkpoints/last.ckpt", "converted").status == 0
    first, model, converted = (ExpLLM.from_pretrained(tmp_path / name) for name in ("a/model", "b/model", "converted"))
    for name, value in first.vision.state_dict().items():
        assert torch.equal(model.vision.state_dict()[name], value.bfloat16()), name
    assert model.state_dict().keys() == converted.state_dict().keys() and same(
        model.state_dict(), converted.state_dict()
    )
    assert model.config.to_dict() == converted.config.to_dict()
    assert (model.image.size, model.config.chat_format) == (42, "plain")
    # An evaluation uses them too.
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert explllm("test", "--run_dir", "b", "--explained_faces", 0).status == 0
    table = Manifest.read(tmp_path / "b/predictions.parquet", root=drawn_faces)
    answers = model.recognize([table.image_path(row) for row in table.frame.index], batch_size=64)
    shares = [list(answer.probabilities.values()) for answer in answers]
    assert table.frame.filter(like="p_").to_numpy() == pytest.approx(np.array(shares), abs=1e-3)
    # A resumed run keeps the base as well, although the folder has moved.
    for step, options in ((2, ("--model.init_from", "a/model")), (3, ("--model.init_from", "null"))):
        assert explllm(*fit, step, *options, "--ckpt_path", "last").status == 0
        resumed = ExpLLM.from_pretrained(tmp_path / "b/model")
        assert same(model.vision.state_dict(), resumed.vision.state_dict())
        assert model.config.to_dict() == resumed.config.to_dict()
        assert model.tokenizer.chat_template == resumed.tokenizer.chat_template
    done = explllm(*fit, 4, "--model.network.vision_feature_layer", 1, "--ckpt_path", "last")
    assert "model.network.vision_feature_layer is 1, but the run to resume was trained with -1" in done.err


def test_a_second_stage_without_the_folder_of_the_first(explllm, small_config, tmp_path):
    """With action unit tokens that only the first stage trains, as in pocket.yaml."""
    fit = ("fit", "--config", small_config, "--model.network.action_unit_tokens", "true", "--trainer.max_steps")
    assert explllm(*fit, 1, "--model.action_unit_weight", 1, "--run_dir", "a").status == 0
    fit = (*fit[:-1], "--run_dir", "b", "--model.init_from", "a/model", "--trainer.max_steps")
    assert explllm(*fit, 1).status == 0
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert explllm("test", "--run_dir", "b", "--explained_faces", 0).status == 0
    assert explllm(*fit, 2, "--ckpt_path", "last").status == 0
    recorded = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    assert recorded["model"]["init_args"]["init_from"] == "a/model"
    assert "the model of --model.init_from does not exist [a/model]" in explllm(*fit, 3).error


def test_checkpoints_of_transformers_5_17(explllm, lora_config, tmp_path):
    """It named DINOv2's projections differently: resuming, the model of the best checkpoint, evaluation, conversion."""
    fit = ("fit", "--config", lora_config, "--run_dir", "run", "--trainer.limit_val_batches", 1)
    fit += ("--trainer.val_check_interval", 2, "--trainer.max_steps")
    assert explllm(*fit, 1).status == 0
    expected = load_file(tmp_path / "run/model" / WEIGHTS)
    files = [tmp_path / f"run/checkpoints/{name}.ckpt" for name in ("last", "best")]
    for path in files:
        checkpoint = AtomicCheckpointIO().load_checkpoint(path)
        shift = path.stem == "best"  # the weights of both files differ
        checkpoint["state_dict"] = {older(name): value + shift for name, value in checkpoint["state_dict"].items()}
        checkpoint["trains"] = [older(name) for name in checkpoint["trains"]]
        assert any(".attention.query.lora_A" in name for name in checkpoint["trains"])
        AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    assert explllm("convert", "checkpoint", files[1], "converted").status == 0
    assert explllm("test", "--run_dir", "run", "--explained_faces", 0).status == 0
    assert explllm(*fit, 1, "--ckpt_path", "last").status == 0
    for folder in ("converted", "run/model"):
        found = load_file(tmp_path / folder / WEIGHTS)
        assert found.keys() == expected.keys() and same(found, {name: value + 1 for name, value in expected.items()})
    assert explllm(*fit, 2, "--ckpt_path", "last").status == 0


def older(name):
    return name.replace(".attention.q_proj.", ".attention.attention.query.")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_model_is_the_best_checkpoint(explllm, small_config, tmp_path, monkeypatch):
    """Validation recall falls after the first of three epochs; a resumed run still knows which one was best."""

    def falling(self, trainer, pl_module):
        pl_module.log("val/macro_recall", 1 / (1 + trainer.current_epoch))

    monkeypatch.setattr(LiveAccuracy, "on_validation_epoch_end", falling)
    run = ("--config", small_config, "--run_dir", "run")
    assert explllm("fit", *run, "--trainer.max_epochs", 2).status == 0
    # No run can resume from weights alone.
    done = explllm("fit", *run, "--trainer.max_epochs", 3, "--ckpt_path", "best")
    assert done.status == 2 and "the checkpoint contains only weights" in done.error
    # The path is absolute, that of the run folder relative.
    last = tmp_path / "run/checkpoints/last.ckpt"
    done = explllm("fit", *run, "--trainer.max_epochs", 3, "--ckpt_path", last)
    assert done.status == 0 and "the best checkpoint (step 7 of 21)" in done.out, done.err
    held = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (held["fit/steps"], held["fit/model_step"]) == (21, 7)
    best, last = (
        AtomicCheckpointIO().load_checkpoint(tmp_path / f"run/checkpoints/{n}.ckpt") for n in ("best", "last")
    )
    assert (best["global_step"], last["global_step"]) == (7, 21) and "optimizer_states" not in best
    model = ExpLLM.from_pretrained(tmp_path / "run/model")
    assert same({name.removeprefix("model."): value for name, value in best["state_dict"].items()}, model.state_dict())
    assert not same(best["state_dict"], last["state_dict"])
    assert "weights: run/checkpoints/best.ckpt" in explllm("test", *run, "--explained_faces", 0).out
    assert "weights: run/checkpoints/last.ckpt" in explllm("validate", *run, "--ckpt_path", "last").out
    # `convert checkpoint` writes the same folder.
    assert explllm("convert", "checkpoint", "run/checkpoints/best.ckpt", "out").status == 0
    assert "already exists" in explllm("convert", "checkpoint", "run/checkpoints/best.ckpt", "out").error
    assert explllm("convert", "half", "out", "half").status == 0
    weights, halves = (load_file(Path(folder, WEIGHTS)) for folder in ("out", "half"))
    for name, value in weights.items():
        assert halves[name].dtype == (torch.float16 if value.is_floating_point() else value.dtype)
        torch.testing.assert_close(halves[name].to(value.dtype), value, atol=1e-4, rtol=1e-3)
    assert all(weight.dtype == torch.float32 for weight in ExpLLM.from_pretrained("half").parameters())
    out = ExpLLM.from_pretrained(tmp_path / "out")
    assert same(out.state_dict(), model.state_dict()) and out.config.to_dict() == model.config.to_dict()
    # A new run deletes the best checkpoint of the old one.
    assert explllm("fit", *run, "--trainer.limit_val_batches", 0).status == 0
    assert not (tmp_path / "run/checkpoints/best.ckpt").exists()


def test_early_stopping(explllm, small_settings, tmp_path):
    settings = json.loads(json.dumps(small_settings))
    stop = {"monitor": "val/macro_recall", "mode": "max", "patience": 1, "min_delta": 2.0}
    settings["trainer"] |= {"max_epochs": 9, "callbacks": [{"class_path": "EarlyStopping", "init_args": stop}]}
    (tmp_path / "stop.yaml").write_text(yaml.safe_dump(settings))
    assert explllm("fit", "--config", "stop.yaml").status == 0
    assert json.loads((tmp_path / "runs/small/metrics.json").read_text())["fit/steps"] == 14
