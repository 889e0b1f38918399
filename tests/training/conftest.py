"""Fixtures of the training tests: a frozen bfloat16 base with float32 LoRA, and commands on several ranks."""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

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


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Folders of an encoder and a language model with weights, like clones of hub repositories."""
    from safetensors.torch import save_file

    from explllm.models.build import NetworkSettings, build

    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    model = build(NetworkSettings(preset="tiny", vision=DINO, language=LLAMA, image_preset="dinov2", image_size=28))
    for name, module in (("vision", model.vision), ("language", model.language)):
        module.config.save_pretrained(folder / name)
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})
    model.tokenizer.save_pretrained(folder / "language")
    (folder / "vision/preprocessor_config.json").write_text('{"size": {"height": 28, "width": 28}}')
    return folder


@pytest.fixture(scope="session")
def lora_config(bases, small_settings, tmp_path_factory):
    """The paper's architecture at tiny size: LoRA in both named bases, which are bfloat16; the projector trains."""
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


@pytest.fixture(scope="session")
def free_port():
    """Find a port below those that the system gives to others between the search and the use."""
    # The workers of pytest-xdist search in different ranges.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20
    ports = iter(range(20_000 + 500 * worker + os.getpid() % 400, 32_000))

    def find():
        for port in ports:
            with socket.socket() as free, suppress(OSError):
                free.bind(("127.0.0.1", port))
                return port
        raise AssertionError("no free port")

    return find


def environment(**variables):
    """The environment of a command whose callbacks are in ranks.py."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        **variables,
    }


@pytest.fixture(scope="session")
def launched():
    """Run the command as a process of its own, which starts its other ranks itself; return its status and stderr."""

    def run(folder, *arguments):
        command = [sys.executable, "-m", "explllm", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
        return done.returncode, done.stderr

    return run


@pytest.fixture(scope="session")
def rank_server():
    """The process that forks ranks; see ranks.py."""
    script = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(script, env=environment(), text=True, **pipes) as server:
        yield server
        server.stdin.close()


@pytest.fixture(scope="session")
def on_ranks(rank_server, free_port):
    """Run commands one after the other on two ranks; return rank 0's exit codes, stdout and stderr."""

    def run(folder, *commands, count=2):
        variables = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        words = [[str(word) for word in command] for command in commands]
        job = {"folder": str(folder), "environment": variables, "commands": words, "count": count}
        rank_server.stdin.write(json.dumps(job) + "\n")
        rank_server.stdin.flush()
        assert rank_server.stdout.readline() == "done\n"
        results = [json.loads(line) for line in (folder / "rank0.json").read_text().splitlines()]
        errors = "\n".join((folder / f"rank{rank}.err").read_text()[-3000:] for rank in range(count))
        assert len(results) == len(commands), errors
        return results

    return run
