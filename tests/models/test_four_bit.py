"""A language model with 4-bit base weights loads, gives similar answers, and trains by LoRA."""

import pytest
import torch

from explllm import ExpLLM
from explllm.core.errors import CheckpointError, ConfigError
from explllm.models import storage
from explllm.models.build import NetworkSettings, build
from explllm.models.loss import LossSettings

pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes (the extra gpu)")


@pytest.fixture(scope="module")
def quantized(converted):
    return ExpLLM.from_pretrained(converted, load_in_4bit=True)


@pytest.fixture
def conversation(golden):
    expected = torch.load(golden / "golden.pt", weights_only=True)
    item = expected["items"]["des"][0]
    return expected["tensors"]["image"][:1], item["input_ids"][None], item["labels"][None]


def test_answers_are_close_to_those_in_full_precision(converted, quantized, conversation):
    pixels, ids, labels = conversation
    full = ExpLLM.from_pretrained(converted)
    linear = quantized.language.model.layers[0].mlp.up_proj
    assert linear.weight.dtype == torch.uint8
    assert linear.weight.numel() == 128 * 64 // 2  # two weights per byte
    assert quantized.language.lm_head.weight.dtype == torch.bfloat16
    with torch.no_grad():
        logits = [model(pixels, ids, labels=labels).logits.float().flatten() for model in (full, quantized)]
    cosine = torch.nn.functional.cosine_similarity(*logits, dim=0)
    assert 0.95 < cosine < 1  # measured: 0.979
    assert quantized.recognize(torch.zeros(9, 9, 3, dtype=torch.uint8).numpy())


def test_all_parts_are_on_one_device(converted, quantized, monkeypatch, tmp_path):
    """On a machine with a GPU, transformers places 4-bit weights there by default."""
    quantized.save_pretrained(tmp_path / "model")
    placed, load = [], storage.load_language

    def load_language(*arguments, **options):
        placed.append(options["device_map"])
        return load(*arguments, **options)

    monkeypatch.setattr(storage, "load_language", load_language)
    ExpLLM.from_pretrained(tmp_path / "model")
    ExpLLM.from_pretrained(tmp_path / "model", device=torch.device("cpu"))
    assert placed == [{"": "cpu"}, {"": "cpu"}]


def test_lora_training(converted, quantized, conversation):
    pixels, ids, labels = conversation
    model = build(
        NetworkSettings(
            vision=str(converted / "vision"),
            language=str(converted / "language"),
            chat_format="expllm",
            image_preset="released",
            load_in_4bit=True,
        )
    )
    storage.initialize(model, converted)
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(pixels, ids, labels=labels, training_loss=LossSettings()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert model.trainable_counts() == quantized.trainable_counts()


def test_invalid_uses(converted, quantized, tmp_path):
    with pytest.raises(CheckpointError, match="4-bit cannot be saved"):
        quantized.save_pretrained(tmp_path / "out", include_base=True)
    quantized.save_pretrained(tmp_path / "out")  # LoRA and projector, with the name of the base
    assert ExpLLM.from_pretrained(tmp_path / "out").language.is_quantized  # the setting is saved
    full = ExpLLM.from_pretrained(tmp_path / "out", load_in_4bit=False)
    assert full.language.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    for invalid in ({"preset": "tiny"}, {"language": str(converted / "language"), "language_train": "full"}):
        parts = {"vision": str(converted / "vision"), "image_preset": "dinov2", "chat_format": "vicuna"}
        settings = {**parts, "load_in_4bit": True, **invalid}
        with pytest.raises(ConfigError, match="4-bit weights require a pretrained language model"):
            build(NetworkSettings(**settings))
