import math

import pytest
import torch

from explllm.core.errors import ConfigError
from explllm.training.optimization import OptimizationSettings, build_optimizer


def rates(settings, steps):
    layer = torch.nn.Linear(2, 2)
    optimizer, schedule = build_optimizer(layer.parameters(), settings, steps)
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


def test_warm_up_as_a_share_is_rounded_up():
    assert rates(OptimizationSettings(warmup_ratio=0.1), 25) == rates(OptimizationSettings(warmup_steps=3), 25)
    assert rates(OptimizationSettings(), 5)[0] == 5e-4


def test_only_matrices_decay_and_only_what_trains_is_moved():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 3))
    model[2].requires_grad_(False)
    optimizer, _ = build_optimizer(model.parameters(), OptimizationSettings(weight_decay=0.05), 10)
    matrices, vectors = optimizer.param_groups
    assert [id(weight) for weight in matrices["params"]] == [id(model[0].weight)]
    assert {id(w) for w in vectors["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)


def test_errors():
    with pytest.raises(ConfigError, match="both `warmup_steps` and `warmup_ratio`"):
        OptimizationSettings(warmup_steps=1, warmup_ratio=0.1)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="every part is frozen"):
        build_optimizer(frozen.parameters(), OptimizationSettings(), 10)
    with pytest.warns(UserWarning, match="the warm-up of 500 steps is as long as the whole run of 10"):
        build_optimizer(torch.nn.Linear(2, 2).parameters(), OptimizationSettings(warmup_steps=500), 10)
