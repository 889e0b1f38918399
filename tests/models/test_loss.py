import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

from explllm.models import loss
from explllm.models.lora import LoraSettings, add_lora
from explllm.models.loss import answer_numbers, answer_positions, chunked_loss, conversation_loss, token_weights


def test_conversations_have_equal_weight():
    torch.manual_seed(0)
    labels = torch.full((3, 9), -100)
    labels[0, 4:6], labels[1, 2:9], labels[2, 8] = torch.tensor([3, 1]), torch.arange(7), 5
    logits = torch.randn(3, 9, 11)
    rows, columns, targets = answer_positions(labels)
    found = conversation_loss(logits[rows, columns], targets, token_weights(rows, 3))
    expected = [
        functional.cross_entropy(logits[row, :-1][labels[row, 1:] != -100], labels[row][labels[row] != -100])
        for row in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_a_conversation_without_answers_contributes_zero():
    labels = torch.full((2, 4), -100)
    labels[0, 2] = 1
    rows, columns, targets = answer_positions(labels)
    found = conversation_loss(torch.zeros(2, 4, 5)[rows, columns], targets, token_weights(rows, 2))
    torch.testing.assert_close(found, torch.log(torch.tensor(5.0)) / 2)


def test_no_answers():
    """A micro-batch without supervised tokens has a loss and gradient of 0."""
    rows, columns, targets = answer_positions(torch.full((2, 4), -100))
    weights = token_weights(rows, 2, answer_numbers(rows, columns))
    states = torch.randn(0, 8, requires_grad=True)
    for head in (nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 5))):
        found, logits = chunked_loss(head, states, targets, weights, 0.1, torch.zeros(2, dtype=torch.long))
        found.backward()
        assert float(found.detach()) == 0 and logits.shape == (2, 5)
        assert all(weight.grad.abs().max() == 0 for weight in head.parameters())


def test_answers_of_a_conversation_have_equal_weight():
    torch.manual_seed(0)
    labels = torch.full((3, 12), -100)
    labels[0, 2:4], labels[0, 6:12], labels[1, 2:4] = torch.tensor([1, 2]), torch.arange(6), torch.tensor([3, 2])
    logits = torch.randn(3, 12, 11)
    rows, columns, targets = answer_positions(labels)
    weights = token_weights(rows, 3, answer_numbers(rows, columns))
    found = conversation_loss(logits[rows, columns], targets, weights)

    def mean(row, start, end):
        return functional.cross_entropy(logits[row, start - 1 : end - 1], labels[row, start:end])

    expected = [(mean(0, 2, 4) + mean(0, 6, 12)) / 2, mean(1, 2, 4), torch.tensor(0.0)]
    torch.testing.assert_close(found, torch.stack(expected).mean())


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the size of the largest tensor that an operation creates."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("trained", [False, True])
def test_loss_in_chunks(monkeypatch, smoothing, trained):
    """Loss and gradients are those of all logits at once, of which only a chunk exists at a time."""
    torch.manual_seed(0)
    tokens, width, vocabulary = 50, 8, 90
    monkeypatch.setattr(loss, "_CHUNK", {"cpu": 7 * vocabulary})
    head = nn.Linear(width, vocabulary).requires_grad_(trained)
    states = torch.randn(tokens, width, requires_grad=True)
    targets, weights = torch.randint(vocabulary, (tokens,)), torch.rand(tokens) / tokens
    labels = torch.tensor([0, 20])
    with Largest() as largest:
        found, logits = chunked_loss(head, states, targets, weights, smoothing, labels)
        (3 * found).backward()
    assert largest.elements <= vocabulary * max(7, width)
    leaves = [states, *(head.parameters() if trained else ())]
    gradients = [leaf.grad.clone() for leaf in leaves]
    expected = conversation_loss(head(states), targets, weights, smoothing)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, head(states)[labels].detach())
    wanted = torch.autograd.grad(3 * expected, leaves)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert (gradient - other).abs().max() < 1e-6 * other.abs().max().clamp(min=1)


def test_loss_in_chunks_in_mixed_precision():
    """In bfloat16, the gradient is as close to that in float32 as that of all logits at once."""
    torch.manual_seed(0)
    head, states = nn.Linear(32, 500, bias=False).requires_grad_(False), torch.randn(40, 32, requires_grad=True)
    targets, weights = torch.randint(500, (40,)), torch.full((40,), 1 / 40)

    def gradient(chunked, enabled=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            if chunked:
                value = chunked_loss(head, states, targets, weights, 0.0, targets[:1] * 0)[0]
            else:
                value = conversation_loss(head(states), targets, weights)
        assert value.dtype == torch.float32
        return torch.autograd.grad(value, states)[0]

    exact = gradient(chunked=False, enabled=False)
    errors = [float((gradient(chunked) - exact).norm() / exact.norm()) for chunked in (True, False)]
    assert errors[0] < 1.2 * errors[1] < 0.02  # measured: 0.0026 and 0.0030


def test_a_trained_output_layer_in_float16():
    """Its gradient, which is computed before the loss is scaled, neither overflows nor vanishes."""
    torch.manual_seed(0)
    head, states = nn.Linear(32, 500, bias=False), torch.randn(3000, 32)
    states[:, 0] = 120
    targets, weights = torch.randint(500, (3000,)), torch.full((3000,), 1e-7)
    weights[:8] = 1 / 16  # labels, whose answers count as much as texts

    def gradient(half):
        with torch.autocast("cpu", torch.float16, enabled=half):
            found, _ = chunked_loss(head, states, targets, weights, 0.0, targets[:1])
        return torch.autograd.grad(found, head.weight)[0]

    exact = gradient(half=False)
    assert (gradient(half=True) - exact).norm() < 0.01 * exact.norm()  # measured: 0.0025


def test_another_thread_may_use_the_output_layer():
    head, states = nn.Linear(64, 3000), torch.randn(400, 64, requires_grad=True)
    targets, stop = torch.zeros(400, dtype=torch.long), threading.Event()

    def train():
        while not stop.is_set():
            chunked_loss(head, states, targets, torch.ones(400), 0.0, targets[:1])[0].backward()

    with ThreadPoolExecutor(1) as other:
        training = other.submit(train)
        try:
            assert all(isinstance(head(states), torch.Tensor) for _ in range(100))
        finally:
            stop.set()
        training.result()


def test_an_output_layer_with_lora():
    torch.manual_seed(0)
    module = nn.ModuleDict({"head": nn.Linear(8, 30)})
    add_lora(module, LoraSettings(targets="head", dropout=0.0))
    nn.init.normal_(module["head"].lora_B["default"].weight)
    states, targets = torch.randn(5, 8), torch.arange(5)
    found, logits = chunked_loss(module["head"], states, targets, torch.ones(5), 0.0, targets[:1])
    torch.testing.assert_close(found, functional.cross_entropy(module["head"](states), targets, reduction="sum"))
    torch.testing.assert_close(logits, module["head"](states)[:1])
    found.backward()
    assert module["head"].lora_A["default"].weight.grad.abs().max() > 0
