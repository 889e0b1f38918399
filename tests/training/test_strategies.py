"""Two ranks train what one does, under DDP and FSDP2, and read each other's checkpoints. They use gloo on the CPU."""

import csv
import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from explllm import FEALLM, ExpLLM
from explllm.drawn_faces.dataset import draw_faces

pytestmark = pytest.mark.slow

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


STEPS, STOPPED_AT = 8, 5
STOP = ("--trainer.callbacks+", json.dumps({"class_path": "ranks.Terminate", "init_args": {"step": STOPPED_AT}}))

SHORT = ("--trainer.callbacks+", json.dumps({"class_path": "ranks.ShortMemory"}))


@pytest.fixture(scope="module")
def few_faces(tmp_path_factory):
    """The options of a small data set: many CPUs are slow in bfloat16, in which the base computes."""
    folder = tmp_path_factory.mktemp("few") / "drawn"
    counts = {"train": 28, "val": 7, "test": 13}
    draw_faces(folder, size=64, **counts)
    return ("--data.folder", folder, *(word for split, count in counts.items() for word in (f"--data.{split}", count)))


def fit_command(lora_config, few_faces):
    fit = ("fit", "--config", lora_config, *few_faces, "--trainer.max_steps", STEPS, "--trainer.max_epochs", 9)
    # The base computes logits in bfloat16: rounding those of a one-word label the other way changes the loss by 1e-4.
    # Chains of thought average over many tokens.
    fit += ("--data.fer_share", 0, "--data.batch_size", 8, "--data.micro_batch_size", 2)
    fit += ("--model.network.vision_lora.dropout", 0, "--model.network.language_lora.dropout", 0)
    # At first, LoRA's A has gradients of 1e-9: with AdamW's epsilon of 1e-8, rounding errors would become whole steps.
    fit += ("--model.optimization.learning_rate", 2e-4, "--model.optimization.epsilon", 1e-6)
    fit += ("--trainer.limit_val_batches", 1.0, "--trainer.check_val_every_n_epoch", 2)
    fit += ("--model.action_unit_weight", 0.5)  # a head that only training uses is sharded and resumed too
    return fit


@pytest.fixture(scope="module")
def runs(lora_config, few_faces, on_ranks, tmp_path_factory):
    """The same steps on one rank and on two under each strategy, unbroken or terminated in the middle and resumed."""
    folder = tmp_path_factory.mktemp("strategies")
    fit = fit_command(lora_config, few_faces)
    alone = ("--trainer.strategy", "ddp", "--trainer.devices", 1, "--trainer.accelerator", "cpu")
    ddp, fsdp2 = ((*RANKS, "--trainer.strategy", strategy) for strategy in STRATEGIES)

    def at(name):
        return ("--run_dir", folder / name)

    resume = ("--ckpt_path", "last")
    one = [(*fit, *alone, *at("one")), (*fit, *alone, *at("one to fsdp2"), *STOP)]
    two = [
        (*fit, *ddp, *at("ddp")),
        (*fit, *fsdp2, *at("fsdp2"), "--trainer.callbacks+", "Gallery"),
        (*fit, *fsdp2, *at("one to fsdp2"), *resume),
        (*fit, *ddp, *at("ddp to fsdp2"), *STOP),
        (*fit, *fsdp2, *at("ddp to fsdp2"), *resume),
        (*fit, *fsdp2, *at("fsdp2 to one"), *STOP),
    ]
    words = ("--model.max_new_tokens", 8, "--data.eval_batch_size", 4)
    predict = ("predict", *words, "--model.explain_predictions", "true", "--run_dir")
    test = ("test", *words, "--explained_faces", 1, "--run_dir")
    for name, options in (("one", ()), ("fsdp2", fsdp2)):
        own = one if name == "one" else two
        table = ("--ckpt_path", folder / "one/checkpoints/last.ckpt", "--predictions", folder / f"{name}.parquet")
        own += [
            (*predict, folder / f"predict {name}", *options, *table),
            (*test, folder / f"test {name}", *options, *table[:2]),
        ]
    sizes = json.dumps({"local_width": 16, "local_heads": 2, "crop_size": 8, "heads": 2})
    feallm = (*fit, "--model.network.architecture", "feallm", "--model.network.feallm", sizes, "--trainer.max_steps", 5)
    one.append((*feallm, *alone, *at("feallm")))
    two += [(*feallm, *ddp, *at("feallm ddp")), (*feallm, *fsdp2, *at("feallm fsdp2"))]
    # Last: the second rank ends.
    two += [
        (*test, folder / f"short {name}", *options, *table[:2], *SHORT)
        for name, options in zip(STRATEGIES, (ddp, fsdp2), strict=True)
    ]
    last = [(*fit, *alone, *at("fsdp2 to one"), *resume)]
    printed = {}
    for count, commands in ((1, one), (2, two), (1, last)):
        for command, (status, out, err) in zip(commands, on_ranks(folder, *commands, count=count), strict=True):
            expected = 143 if STOP[1] in command else 2 if folder / "short fsdp2" in command else 0
            assert status == expected, err
            printed.setdefault(command[command.index("--run_dir") + 1].name, []).append(out + err)
    return folder, printed


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "one to fsdp2", "ddp to fsdp2", "fsdp2 to one"])
def test_two_ranks_learn_what_one_learns(runs, drawn_faces, name):
    folder, printed = runs
    one, other = losses(folder / "one"), losses(folder / name)
    assert len(one) == STEPS
    assert other == pytest.approx(one, abs=1e-4)
    for weight, value in weights(folder / "one").items():
        assert value.any()  # LoRA's B starts at 0
        torch.testing.assert_close(weights(folder / name)[weight], value, atol=2e-5, rtol=0)
    faces = sorted((drawn_faces / "test").glob("*.png"))[:4]
    # In float32: bfloat16 rounds the logits to three digits.
    answers = [
        ExpLLM.from_pretrained(folder / run / "model", dtype=torch.float32).recognize(faces) for run in ("one", name)
    ]
    for mine, other_answer in zip(*answers, strict=True):
        assert [*other_answer.probabilities.values()] == pytest.approx([*mine.probabilities.values()], abs=1e-5)
    if " to " in name:
        assert f"--ckpt_path last resumes from step {STOPPED_AT}" in printed[name][0]
        assert f"resuming from step {STOPPED_AT}" in printed[name][1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_unit_head_that_no_loss_trains(runs, strategy, lora_config, few_faces, on_ranks, tmp_path):
    """As in pocket.yaml: the head of the action unit tokens gets no gradient."""
    fit = (*fit_command(lora_config, few_faces), *RANKS, "--trainer.strategy", strategy, "--run_dir", "run")
    fit += ("--model.init_from", runs[0] / "one/model", "--model.network.action_unit_tokens", "true")
    fit += ("--model.action_unit_weight", 0, "--trainer.max_steps", 2, "--trainer.limit_val_batches", 0)
    [(status, _, err)] = on_ranks(tmp_path, fit)
    assert status == 0, err
    assert len(losses(tmp_path / "run")) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_feallm_on_two_ranks(runs, strategy):
    folder, _ = runs
    one, two = losses(folder / "feallm"), losses(folder / f"feallm {strategy}")
    assert len(one) == 5 and two == pytest.approx(one, abs=1e-4)
    for weight, value in weights(folder / "feallm").items():
        torch.testing.assert_close(weights(folder / f"feallm {strategy}")[weight], value, atol=2e-5, rtol=0)
    assert type(ExpLLM.from_pretrained(folder / f"feallm {strategy}/model")) is FEALLM


def test_two_ranks_predict_and_explain_what_one_does(runs):
    """13 test faces on two ranks: one has a filler row."""
    folder, _ = runs
    one, two = (pd.read_parquet(folder / f"{name}.parquet") for name in ("one", "fsdp2"))
    assert list(one["image"]) == list(two["image"]) and len(one) == 28 + 7 + 13
    shares = one.filter(like="p_").columns
    assert two[shares].to_numpy() == pytest.approx(one[shares].to_numpy(), abs=1e-5)
    assert list(one["cot"]) == list(two["cot"])
    figures = [json.loads((folder / f"test {name}/metrics.json").read_text()) for name in ("one", "fsdp2")]
    assert figures[0]["test/count"] == figures[1]["test/count"] == 13
    assert figures[1]["test/nll"] == pytest.approx(figures[0]["test/nll"], abs=1e-5)
    assert len(list((folder / "fsdp2/gallery").glob("*.html"))) >= 1


def test_one_rank_runs_out_of_memory(runs):
    """Under DDP it halves its batches; under FSDP2, where each pass needs all ranks, the run ends."""
    folder, printed = runs
    one, ddp = (json.loads((folder / name / "metrics.json").read_text()) for name in ("test one", "short ddp"))
    assert ddp["test/nll"] == pytest.approx(one["test/nll"], abs=1e-5)
    assert "error: another process of the run exited. See its message." in printed["short fsdp2"][0]


def test_a_killed_rank_ends_the_run_which_resumes(lora_config, few_faces, on_ranks, launched, tmp_path):
    """The second process, which the first one started, is killed: the first one ends with a message, and at once."""
    fit = [
        "fit",
        "--config",
        str(lora_config),
        *map(str, (*few_faces, *RANKS)),
        "--trainer.strategy",
        "fsdp2",
        "--run_dir",
        "run",
    ]
    fit += ["--data.micro_batch_size", "2", "--trainer.max_steps", "6", "--checkpoint_every_n_steps", "1"]
    kill = json.dumps({"class_path": "ranks.KillRank", "init_args": {"rank": 1, "step": 3}})
    status, err = launched(tmp_path, *fit, "--trainer.callbacks+", kill)
    assert status == 2 and "Traceback" not in err, err
    last = tmp_path / "run/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    hint = f"The same command with --ckpt_path last resumes from step {step}."
    assert f"error: another process of the run exited. See its message. {hint}" in err
    for status, _, err in on_ranks(tmp_path, [*fit, "--ckpt_path", "last"], [*fit, "--run_dir", "whole"]):
        assert status == 0, err
    ends = [json.loads((tmp_path / name / "metrics.json").read_text())["fit/loss"] for name in ("run", "whole")]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_two_nodes_by_torchrun(runs, lora_config, few_faces, free_port, tmp_path):
    """Two launchers on loopback, one process each, learn what one process does; each has its own disk."""
    folder, _ = runs
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    fit = [*map(str, fit_command(lora_config, few_faces)), "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    fit += ["--trainer.accelerator", "cpu", "--trainer.strategy", "fsdp2", "--run_dir", "run"]
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    nodes = [
        subprocess.Popen(
            [*command, "--node_rank", str(rank), "-m", "explllm", *fit],
            cwd=tmp_path / str(rank),
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for node in nodes:
        _, err = node.communicate(timeout=600)
        assert node.returncode == 0, err[-3000:]
    assert losses(tmp_path / "0/run") == pytest.approx(losses(folder / "one"), abs=1e-4)
    assert not (tmp_path / "1/run/checkpoints").exists()
    one, two = (
        torch.load(path / "checkpoints/best.ckpt", weights_only=True) for path in (folder / "one", tmp_path / "0/run")
    )
    assert two["global_step"] == one["global_step"]
    for name, value in weights(tmp_path / "0/run").items():
        assert torch.equal(value, two["state_dict"][f"model.{name}"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_ranks_load_one_copy_of_the_base(repository):
    """The base is float16 in its files and bfloat16 in training, as Vicuna's."""
    script = [sys.executable, str(repository / "benchmarks/loading.py"), "--megabytes", "200", "--json"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    memory = json.loads(done.stdout)
    # Measured: 1.08. A copy per rank would be 2 or more.
    assert memory["base"] > 180e6 and 0.9 < memory["Pss"] / memory["base"] <= 1.4, memory
