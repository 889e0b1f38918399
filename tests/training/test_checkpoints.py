"""Checkpoints as files: never half-written, nothing in them is run, and they hold what trains and no more."""

import multiprocessing
import os
import pickle
import random
import shutil
import signal
import time

import pytest
import torch
import yaml
from safetensors.torch import save_file

from explllm.core.errors import CheckpointError, ConfigError
from explllm.models.build import NetworkSettings, build
from explllm.training.callbacks.last_checkpoint import LastCheckpoint
from explllm.training.checkpoint_file import WholeCheckpoints


def content(number):
    return {"state_dict": {"weight": torch.full((500_000,), float(number))}, "labels": [], "number": number}


def write_for_ever(path):
    # A forked process has none of the threads that its parent's arithmetic may have started, and would wait for them.
    torch.set_num_threads(1)
    for number in range(10**9):
        WholeCheckpoints().save_checkpoint(content(number), path)


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    """Each kill falls into a write: the process does nothing else."""
    path, choose = tmp_path / "checkpoints/last.ckpt", random.Random(0)
    for _ in range(30):
        path.unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(choose.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        held = WholeCheckpoints().load_checkpoint(path)
        assert torch.equal(held["state_dict"]["weight"], content(held["number"])["state_dict"]["weight"])
    # What a kill leaves of an unfinished write is overwritten by the next one, and does not pile up.
    assert {found.name for found in path.parent.iterdir()} <= {"last.ckpt", ".last.ckpt.partial"}


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(content(1), path)

    def full(checkpoint, stream):
        stream.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        WholeCheckpoints().save_checkpoint(content(2), path)
    assert WholeCheckpoints().load_checkpoint(path)["number"] == 1


class Malice:
    def __reduce__(self):
        return os.system, ("exit 0",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "the file is truncated, or no checkpoint"),
        (lambda path: path.write_text("no checkpoint"), "the file is truncated, or no checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps(Malice())), "the file is truncated, or no checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "the file is truncated, or no checkpoint"),
        (lambda path: torch.save(content(1) | {"more": Malice()}, path), "holds more than tensors, numbers and text"),
        (lambda path: torch.save({"state_dict": {}}, path), "the checkpoint is of another kind of model"),
        (lambda path: torch.save([1, 2], path), "the checkpoint is of another kind of model"),
        (lambda path: shutil.make_archive(path.with_suffix(""), "zip", path.parent), "the file cannot be read"),
    ],
    ids=["empty", "text", "pickle", "truncated", "with code", "of another program", "a list", "another archive"],
)
def test_files_that_are_no_checkpoints(tmp_path, make, message):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(content(1), path)
    make(path)
    if path.with_suffix(".zip").exists():
        path.with_suffix(".zip").rename(path)
    with pytest.raises(CheckpointError, match=rf"{message}.* \[.*last.ckpt\]"):
        WholeCheckpoints().load_checkpoint(path, weights_only=False)


def test_how_often():
    with pytest.raises(ConfigError, match="a checkpoint every 0 steps"):
        LastCheckpoint("run", every_n_steps=0)


DINO = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of an encoder and a language model with weights, as one has them from the hub."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    model = build(NetworkSettings(preset="tiny", vision=DINO, language=LLAMA, image_preset="dinov2", image_size=28))
    for name, module in (("vision", model.vision), ("language", model.language)):
        module.config.save_pretrained(folder / name)
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})
    model.tokenizer.save_pretrained(folder / "language")
    return folder


@pytest.fixture(scope="module")
def lora_config(bases, small_settings, tmp_path_factory):
    """Both stages' architecture on the named bases: LoRA in both, the projector trains, base weights in bfloat16."""
    settings = yaml.safe_load(yaml.safe_dump(small_settings))
    settings["run_dir"] = "runs/lora"
    settings["model"]["init_args"]["network"] = {
        "preset": "vicuna-7b",
        "vision": str(bases / "vision"),
        "language": str(bases / "language"),
        "image_preset": "dinov2",
        "image_size": 28,
        "chat_format": "vicuna",
        "vision_lora": {"r": 2},
        "language_lora": {"r": 2},
    }
    settings["data"]["init_args"] |= {"batch_size": 8, "micro_batch_size": 4}
    settings["trainer"] |= {"max_steps": 2, "limit_val_batches": 0}
    path = tmp_path_factory.mktemp("config") / "lora.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


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
    # The optimizer has two moments and a step for each weight that trains, and nothing else.
    moments = sum(value.numel() for state in held["optimizer_states"][0]["state"].values() for value in state.values())
    assert moments == 2 * kept + len(names)
    # It can be tested (with words for one face) and resumed.
    assert explllm("test", "--config", lora_config, "--explained_faces", 1).status == 0
    assert explllm("fit", "--config", lora_config, "--ckpt_path", "last", "--trainer.max_steps", 3).status == 0
