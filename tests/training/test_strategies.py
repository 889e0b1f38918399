"""Two ranks train what one does, under DDP and FSDP2, and read each other's checkpoints. They use gloo on the CPU."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from explllm.cli import main

RANKS = ("--trainer.devices", 2, "--trainer.accelerator", "cpu")
STRATEGIES = ("ddp", "fsdp2")


def losses(folder):
    rows = []
    for log in sorted(folder.glob("logs/*/metrics.csv")):
        with log.open() as lines:
            rows += [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]
    return rows


def weights(folder):
    return load_file(folder / "model/model.safetensors")


@pytest.fixture(scope="module")
def runs(lora_config, on_ranks, tmp_path_factory):
    """20 steps on one rank, and on two under each strategy; a run interrupted by step 10 resumes under another one."""
    folder = tmp_path_factory.mktemp("strategies")
    fit = ("fit", "--config", lora_config, "--data.micro_batch_size", 2, "--trainer.max_steps", 20)
    fit += ("--model.network.vision_lora.dropout", 0, "--model.network.language_lora.dropout", 0)
    fit += ("--model.optimization.learning_rate", 0.01, "--model.optimization.warmup_steps", 5)
    assert main([*map(str, fit), "--run_dir", str(folder / "one")]) == 0
    commands = []
    for strategy in STRATEGIES:
        commands.append((*fit, *RANKS, "--trainer.strategy", strategy, "--run_dir", folder / strategy))
    results = on_ranks(folder, *commands)
    for status, _, err in results:
        assert status == 0, err
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_learn_what_one_learns(runs, strategy):
    one, two = losses(runs / "one"), losses(runs / strategy)
    assert len(one) == 20
    assert two == pytest.approx(one, abs=1e-4)
    for name, value in weights(runs / "one").items():
        torch.testing.assert_close(weights(runs / strategy)[name], value, atol=1e-3, rtol=0)
