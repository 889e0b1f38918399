"""LoRA and its variants in a model: scale, merging, dtypes, and starting from another model."""

from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer

from explllm import ExpLLM
from explllm.conversation.messages import recognition
from explllm.models import storage
from explllm.models.build import build
from explllm.models.fast_linear import fast_linear
from explllm.models.lora import FastDropout, LoraSettings


def logits(model):
    size = model.image.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([model.conversations.encode(recognition("Fear")).input_ids] * 2)
    with torch.no_grad():
        return model(images, ids).logits


def adapters(model):
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def randomize(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.add_(0.2 * torch.randn_like(weight))


@pytest.mark.parametrize("variant", ["lora", "use_rslora", "use_dora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scale_saving_and_merging(lora_settings, tmp_path, variant, dtype):
    options = {} if variant == "lora" else {variant: True}
    lora = LoraSettings(r=4, alpha=8, dropout=0, **options)
    torch.manual_seed(0)
    model = build(replace(lora_settings, vision_lora=lora, language_lora=lora))
    if dtype == "bfloat16":
        for weight in model.parameters():
            weight.data = weight.data if weight.requires_grad else weight.data.to(torch.bfloat16)
    randomize(model)
    layers = adapters(model)
    assert len(layers) == 8  # query and value in two blocks of each part
    assert {layer.scaling["default"] for layer in layers} == {4.0 if variant == "use_rslora" else 2.0}
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum("magnitude" in name for name in trainable) == (8 if variant == "use_dora" else 0)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}

    ids = torch.tensor([model.conversations.encode(recognition("Fear")).input_ids])
    model.train()
    model(torch.randn(1, 3, 56, 56), ids).logits.float().logsumexp(-1).sum().backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters() if weight.requires_grad
    )
    model.eval()

    model.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(ExpLLM.from_pretrained(tmp_path / "model")), logits(model), atol=1e-5, rtol=0)
    expected, calls = logits(model), []
    layers[0].lora_A["default"].register_forward_pre_hook(lambda *_: calls.append(1))
    with fast_linear(model):
        # LoRA's own layers are in float32; another rounding error of them can round a bfloat16 logit the other way.
        torch.testing.assert_close(logits(model), expected, atol=1e-5 if dtype == "float32" else 4e-3, rtol=0)
    assert bool(calls) == (dtype == "bfloat16")  # merging would round
    assert torch.equal(logits(model), expected) and calls
    if dtype == "float32":
        model.save_pretrained(tmp_path / "merged", merge=True)
        merged = ExpLLM.from_pretrained(tmp_path / "merged")
        assert not adapters(merged)
        torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=0)


def test_a_new_adapter_on_weights_of_the_first_stage_changes_nothing(lora_settings, tmp_path):
    torch.manual_seed(0)
    first = build(replace(lora_settings, vision_train="full", language_train="full"))
    first.save_pretrained(tmp_path / "first")
    torch.manual_seed(1)
    lora = LoraSettings(use_dora=True)
    second = build(replace(lora_settings, vision_lora=lora, language_lora=lora))
    storage.initialize(second, tmp_path / "first")
    torch.testing.assert_close(logits(second), logits(first), atol=1e-5, rtol=0)
    randomize(second)
    second.save_pretrained(tmp_path / "second")
    third = build(replace(lora_settings, vision_lora=lora, language_lora=lora))
    storage.initialize(third, tmp_path / "second")
    torch.testing.assert_close(logits(third), logits(second), atol=1e-5, rtol=0)


def test_fast_dropout():
    """Each element is zeroed on its own with probability p; the others keep the mean. Gradients have the same mask."""
    dropout = FastDropout(0.05)
    states = torch.ones(401, 999, dtype=torch.bfloat16, requires_grad=True)
    torch.manual_seed(0)
    dropped = dropout(states)
    zeroed = dropped == 0
    assert zeroed.float().mean() == pytest.approx(0.05, abs=0.002)  # four standard deviations: 0.0014
    for apart in (1, 2, 3, 4):  # neighbors come from one random number
        pairs = zeroed.flatten()[:-apart] & zeroed.flatten()[apart:]
        assert pairs.float().mean() == pytest.approx(0.05**2, abs=0.0004)
    assert dropped.max() == torch.tensor(1 / 0.95, dtype=torch.bfloat16)
    dropped.sum().backward()
    assert torch.equal(states.grad == 0, zeroed)
    torch.manual_seed(0)
    assert torch.equal(dropout(states), dropped)
    assert dropout.eval()(states) is states


def test_every_adapter_has_the_fast_dropout(lora_settings):
    kinds = {type(module) for layer in adapters(build(lora_settings)) for module in layer.lora_dropout.values()}
    assert kinds == {FastDropout}
