"""Linear layers of inference give the values of plain ones; `test_lora.py` merges the variants of LoRA."""

import copy
import gc

import pytest
import torch
from torch import nn

from explllm.models import fast_linear as module
from explllm.models.fast_linear import fast_linear


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN")
@pytest.mark.parametrize("onednn", [True, False])
def test_values_and_restored_layers(monkeypatch, onednn):
    monkeypatch.setattr(module, "prefers_onednn", lambda: onednn)
    monkeypatch.setattr(module, "_LARGE", 20_000)
    torch.manual_seed(0)
    float32, bfloat16 = nn.Linear(32, 688), nn.Linear(32, 16, bias=False, dtype=torch.bfloat16)
    hooked = nn.Linear(32, 8)
    own = hooked.forward = lambda states: -nn.Linear.forward(hooked, states)  # as accelerate's hooks
    model = nn.ModuleList([float32, bfloat16, hooked])
    states = torch.randn(4, 9, 64)[:, 2:, ::2]  # a view with gaps
    expected = [layer(states.to(layer.weight.dtype)) for layer in model]
    with torch.no_grad(), fast_linear(model):
        assert ("forward" in float32.__dict__) == onednn and "forward" not in bfloat16.__dict__
        for layer, values in zip(model, expected, strict=True):
            torch.testing.assert_close(layer(states.to(layer.weight.dtype)), values, atol=1e-5, rtol=0)
        with fast_linear(model):  # another thread, or a recognition within an explanation
            pass
        assert ("forward" in float32.__dict__) == onednn
        assert float32(states[:, :0]).shape == (4, 0, 688)
        with torch.autocast("cpu", torch.bfloat16):
            assert float32(states).dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), fast_linear(model):
        assert "forward" not in float32.__dict__
    assert "forward" not in float32.__dict__ and hooked.forward is own


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN")
def test_packed_weights_of_the_output_layer_follow_every_change(monkeypatch):
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "_LARGE", 20_000)
    packed, reorder = [], torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda *a: packed.append(1) or reorder(*a))
    layouts, multiply = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: layouts.append(a[1].layout) or multiply(*a))
    torch.manual_seed(0)
    layer, states = nn.Linear(32, 688), torch.randn(2, 5, 32)
    model = nn.ModuleList([layer, nn.Linear(32, 688)])

    def check():
        expected = layer(states).detach()
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode, fast_linear(model, output=layer):
                torch.testing.assert_close(layer(states), expected, atol=1e-5, rtol=0)
                torch.testing.assert_close(layer(states[0, :1]), expected[0, :1], atol=1e-5, rtol=0)
        return len(packed)

    assert check() == check() == 1
    assert set(layouts) == {torch._mkldnn}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(states).dtype == torch.bfloat16
    with torch.no_grad(), fast_linear(model, output=layer), torch.autocast("cpu", torch.bfloat16):
        assert layer(states).dtype == torch.bfloat16
    with torch.no_grad():
        layer.weight += 1
    assert check() == 2
    layer.weight.data[17] = 5  # the version stays the same
    assert check() == 3
    layer.weight.data = torch.randn(688, 32)
    assert check() == 4
    layer.weight = nn.Parameter(torch.randn(688, 32))
    assert check() == 5
    with fast_linear(model, output=layer):  # while a server is running
        torch.testing.assert_close(copy.deepcopy(layer)(states), layer(states))
    gc.collect()
    assert sum(weight.shape == (688, 32) for weight in module._packed_weights) == 1  # the former copies are freed


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN")
def test_only_explanations_pack_the_output_layer(tiny_model, monkeypatch):
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "_LARGE", 1)
    weight, size = tiny_model.language.get_output_embeddings().weight, tiny_model.image.size
    pixels = torch.randn(2, 3, size, size)
    module._packed_weights.pop(weight, None)  # of another test
    tiny_model.recognize_pixels(pixels)
    assert weight not in module._packed_weights
    tiny_model.explain_pixels(pixels, [tiny_model.labels[0]] * 2, 4)
    assert weight in module._packed_weights
