"""What a configuration means, worked out without weights."""

import json
import re
import time
from functools import cache

import pytest

from explllm.commands.lightning_cli import parse
from explllm.training.footprint import describe_configuration


@cache
def describe(*arguments, images=None):
    return describe_configuration(parse("fit", [*arguments]), images)


def test_the_papers_set_up():
    description = describe("--config", "rafdb.yaml")
    assert {part.name: part.trainable for part in description.parts} == {
        "vision": 786_432,
        "projector": 20_979_712,
        "language": 4_194_304,
    }
    assert description.trainable == 25_960_448
    # DINOv2 ViT-L/14 has 304.4 M weights and Vicuna-7B 6,738,415,616; the rest is LoRA.
    assert {part.name: part.weights - part.trainable for part in description.parts} == {
        "vision": 304_368_640,
        "projector": 0,
        "language": 6_738_415_616,
    }
    assert description.image_tokens == 256
    # 12,271 faces without 2% for validation: 48,104 conversations are 375 whole batches of 128, 60 times.
    assert (description.images, description.conversations) == (12_026, 4 * 12_026)
    assert (description.steps, description.warmup) == (375 * 60, 20_000)


def test_feallm_at_full_size():
    description = describe("--config", "feallm.yaml")
    assert {part.name: part.trainable for part in description.parts} == {
        "vision": 0,
        "projector.local_clues": 27_458_048,
        "projector.perspectives": 33_655_808,
        "language": 4_194_304,
    }
    assert description.image_tokens == 257


def test_memory_of_the_papers_set_up():
    description = describe("--config", "rafdb.yaml")
    ddp, fsdp, four_bit = description.memory
    assert ddp.frozen == pytest.approx((304_368_640 + 6_738_415_616) * 2 / 1e9)
    assert fsdp.frozen < ddp.frozen / 4
    # 6.48 G weights of linear layers at 4.127 bits, the rest in bfloat16.
    assert four_bit.frozen == pytest.approx((6_476_005_376 * 4.127 / 8 + (7_042_784_256 - 6_476_005_376) * 2) / 1e9)
    assert ddp.total < 24  # the paper trained on GPUs of 24 GB
    assert four_bit.total < ddp.total
    test = description.evaluation
    assert test.weights == pytest.approx((7_042_784_256 * 2 + 25_960_448 * 4) / 1e9)
    # Keys and values of 32 layers of width 4,096, for image, prompt and 320 tokens of an explanation.
    cache = 8 * 2 * 32 * 4096 * 2 * (256 + 96 + 320) / 1e9
    assert test.explanation == pytest.approx(cache + test.recognition / 64 * 8)
    # At least gate, up and their product in the MLP, bfloat16; at most twice that, without a cache.
    products = 64 * 352 * 3 * 11_008 * 2 / 1e9
    assert products < test.recognition < 2 * products
    assert (test.eval_batch_size, test.explanation_batch_size, test.gpu) == (64, 8, 24)


def test_other_configurations():
    released = describe("--config", "rafdb_released.yaml")
    assert (released.steps, released.warmup) == (383 * 20, 230)  # a ratio of 0.03, rounded up
    align = describe("--config", "align_cc3m.yaml")
    assert (align.steps, align.trainable) == (595_375 // 256, 20_979_712)
    demo = describe("--config", "demo.yaml")
    assert (demo.images, demo.conversations, len(demo.memory)) == (1400, 5600, 2)
    assert describe("--config", "ablation/no_cot.yaml").conversations == 12_026
    limited = describe("--config", "demo.yaml", "--trainer.max_steps", "7", "--data.train", "700")
    assert (limited.steps, limited.images) == (7, 700)


def test_images_on_this_machine(drawn_faces):
    manifest = ["--data", "ManifestFaces", "--data.manifest", str(drawn_faces / "manifest.parquet")]
    description = describe("--config", "faces.yaml", *manifest)
    assert (description.images, description.images_source) == (56, str(drawn_faces / "manifest.parquet"))
    nowhere = describe("--config", "faces.yaml", "--data.root", "nowhere")
    assert (nowhere.images, nowhere.steps) == (None, None)
    assert describe("--config", "faces.yaml", images=1000).conversations == 2000


def test_the_command(explllm, monkeypatch):
    before = time.process_time()
    done = explllm("describe", "--config", "rafdb.yaml")
    # Asked: under 15 s. Measured on two CPU cores: 10 s with imports and beside other work.
    assert done.status == 0 and time.process_time() - before < 60
    printed = " ".join(done.out.split())
    for words in (
        "smallest GPU 24 GB",
        "25,960,448",
        "8.7 M",
        "22,500",
        "20,000",
        "as published",
        "computed without a GPU",
    ):
        assert words in printed
    values = json.loads(explllm("describe", "--config", "demo.yaml", "--json").out)
    assert values["trainable"] == sum(part["trainable"] for part in values["parts"])
    assert "unknown" in explllm("describe", "--config", "faces.yaml").out
    # Every number of the tables is whole, however narrow the terminal is.
    for columns in ("200", "80", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        narrow = explllm("describe", "--config", "demo.yaml").out
        numbers = set(re.findall(r"(?<= )[\d,.]+(?=\s)", narrow))
        assert {f"{part['weights']:,}" for part in values["parts"]} <= numbers, narrow
        assert {f"{row['total']:.1f}" for row in values["memory"]} <= numbers and "…" not in narrow, narrow
    monkeypatch.undo()
    assert "--gpus is 0. Use 1 to 100000." in explllm("describe", "--config", "demo.yaml", "--gpus", 0).error
    assert "no configuration none.yaml" in explllm("describe", "--config", "none.yaml").error
    assert "--config" in explllm("describe").error
    assert "unknown key data.walk" in explllm("describe", "--config", "demo.yaml", "--data.walk", 1).error
