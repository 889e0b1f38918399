import math
from contextlib import nullcontext

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from explllm.core.errors import ConfigError
from explllm.models.build import NetworkSettings, build
from explllm.training.optimization import OptimizationSettings, build_optimizer, undecayed_names


def rates(settings, steps):
    layer = torch.nn.Linear(2, 2)
    optimizer, schedule = build_optimizer(layer, settings, steps)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    return found


def test_linear_warm_up_then_cosine_to_zero():
    found = rates(OptimizationSettings(learning_rate=0.4, warmup_steps=4), 20)
    assert found[:5] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    expected = [0.2 * (1 + math.cos(math.pi * step / 16)) for step in range(17)]
    assert found[4:] == pytest.approx(expected, abs=1e-9)
    assert found[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("warmup", [0, 3, 9, 12])
def test_the_schedule_is_that_of_transformers(warmup):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    expected = get_cosine_schedule_with_warmup(optimizer, warmup, 9).lr_lambdas[0]
    with nullcontext() if warmup < 9 else pytest.warns(UserWarning, match="never reaches"):
        found = rates(OptimizationSettings(learning_rate=1.0, warmup_steps=warmup), 9)
    assert found == [expected(step) for step in range(10)]


def test_warm_up_as_a_share_is_rounded_up():
    assert rates(OptimizationSettings(warmup_ratio=0.1), 25) == rates(OptimizationSettings(warmup_steps=3), 25)
    assert rates(OptimizationSettings(), 5)[0] == 5e-4


def test_only_matrices_decay_and_only_what_trains_is_moved():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 3))
    model[2].requires_grad_(False)
    optimizer, _ = build_optimizer(model, OptimizationSettings(weight_decay=0.05), 10)
    matrices, vectors = optimizer.param_groups
    assert [id(weight) for weight in matrices["params"]] == [id(model[0].weight)]
    assert {id(w) for w in vectors["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)


CONV = {"model_type": "explllm_conv", "hidden_sizes": [8, 16], "depths": [2, 1]}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    ("vision", "language"),
    [
        (CONV, {**TEXT, "model_type": "llama"}),
        ({**VIT, "model_type": "dinov2", "patch_size": 14}, {**TEXT, "model_type": "qwen3", "head_dim": 8}),
        ({**VIT, "model_type": "siglip_vision_model", "patch_size": 14}, {**TEXT, "model_type": "qwen2"}),
    ],
)
def test_what_does_not_decay_is_found_without_looking_at_shapes(vision, language):
    model = build(
        NetworkSettings(
            preset="tiny",
            vision=vision,
            language=language,
            vision_train="full",
            language_train="full",
            image_size=28,
        )
    )
    assert undecayed_names(model) == {name for name, weight in model.named_parameters() if weight.ndim <= 1}


def test_learning_rates_of_parts():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("vision", "projector", "language")})
    settings = OptimizationSettings(learning_rate=0.1, part_learning_rates={"projector": 0.5, "vision": 0.0})
    optimizer, _ = build_optimizer(model, settings, 10)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for part, rate in (("vision", 0.0), ("projector", 0.5), ("language", 0.1)):
        assert {rates[id(weight)] for weight in model[part].parameters()} == {rate}
    with pytest.raises(ConfigError, match="names head, which has no trainable weights"):
        build_optimizer(model, OptimizationSettings(part_learning_rates={"head": 1.0}), 10)


def test_errors():
    with pytest.raises(ConfigError, match="both `warmup_steps` and `warmup_ratio`"):
        OptimizationSettings(warmup_steps=1, warmup_ratio=0.1)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="every part is frozen"):
        build_optimizer(frozen, OptimizationSettings(), 10)
    with pytest.warns(UserWarning, match="the warm-up of 500 steps is at least as long as the whole run of 10"):
        build_optimizer(torch.nn.Linear(2, 2), OptimizationSettings(warmup_steps=500), 10)
