"""A language model with 4-bit base weights: it loads, answers nearly alike, and trains by LoRA."""

import pytest
import torch

from explllm import ExpLLM
from explllm.core.errors import CheckpointError, ConfigError
from explllm.models import storage
from explllm.models.build import NetworkSettings, build
from explllm.models.released.convert import convert_released

pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes (the extra gpu)")


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    out = tmp_path_factory.mktemp("four_bit") / "model"
    convert_released(golden / "checkpoint", out)
    return out


@pytest.fixture
def conversation(golden):
    expected = torch.load(golden / "golden.pt", weights_only=True)
    item = expected["items"]["des"][0]
    return expected["tensors"]["image"][:1], item["input_ids"][None], item["labels"][None]


def test_it_answers_nearly_as_the_whole_weights_do(folder, conversation):
    pixels, ids, labels = conversation
    whole, small = ExpLLM.from_pretrained(folder), ExpLLM.from_pretrained(folder, load_in_4bit=True)
    linear = small.language.model.layers[0].mlp.up_proj
    assert linear.weight.dtype == torch.uint8
    assert linear.weight.numel() == 128 * 64 // 2  # two weights a byte
    assert small.language.lm_head.weight.dtype == torch.bfloat16
    with torch.no_grad():
        one, other = (model(pixels, ids, labels=labels).logits.float() for model in (whole, small))
    cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
    assert 0.95 < cosine < 1  # measured: 0.979
    assert small.recognize(torch.zeros(9, 9, 3, dtype=torch.uint8).numpy())


def test_it_trains_by_lora(folder, conversation):
    pixels, ids, labels = conversation
    model = build(
        NetworkSettings(
            vision=str(folder / "vision"),
            language=str(folder / "language"),
            chat_format="expllm",
            image_preset="released",
            load_in_4bit=True,
        )
    )
    storage.initialize(model, folder)
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(pixels, ids, labels=labels, logits_at_labels_only=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == sum(
        weight.numel() for weight in ExpLLM.from_pretrained(folder).parameters() if weight.requires_grad
    )


def test_what_is_refused(folder, tmp_path):
    model = ExpLLM.from_pretrained(folder, load_in_4bit=True)
    with pytest.raises(CheckpointError, match="4 bits cannot be written"):
        model.save_pretrained(tmp_path / "out", include_base=True)
    model.save_pretrained(tmp_path / "out")  # LoRA and projector, beside the name of the base
    for wrong in ({"preset": "tiny"}, {"language": str(folder / "language"), "language_train": "full"}):
        settings = {"vision": str(folder / "vision"), "load_in_4bit": True, **wrong}
        with pytest.raises(ConfigError, match="4-bit weights are for a named language model"):
            build(NetworkSettings(**settings))
