import torch
from torch.nn import functional

from explllm.models.loss import action_unit_loss, answer_positions, conversation_loss


def test_conversations_have_equal_weight():
    torch.manual_seed(0)
    labels = torch.full((3, 9), -100)
    labels[0, 4:6], labels[1, 2:9], labels[2, 8] = torch.tensor([3, 1]), torch.arange(7), 5
    logits = torch.randn(3, 9, 11)
    rows, columns, targets = answer_positions(labels)
    loss = conversation_loss(logits[rows, columns], targets, rows, 3)
    expected = [
        functional.cross_entropy(logits[row, :-1][labels[row, 1:] != -100], labels[row][labels[row] != -100])
        for row in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_conversation_without_answers_contributes_zero():
    labels = torch.full((2, 4), -100)
    labels[0, 2] = 1
    rows, columns, targets = answer_positions(labels)
    logits = torch.zeros(2, 4, 5)
    loss = conversation_loss(logits[rows, columns], targets, rows, 2)
    torch.testing.assert_close(loss, torch.log(torch.tensor(5.0)) / 2)


def test_units_that_were_not_measured_add_nothing():
    logits = torch.tensor([[0.0, 3.0, -1.0], [2.0, 1.0, 0.0]], requires_grad=True)
    measured = torch.tensor([[0.5, torch.nan, 0.0], [1.0, 0.2, torch.nan]])
    loss = action_unit_loss(logits, measured)
    known = [(0.0, 0.5), (-1.0, 0.0), (2.0, 1.0), (1.0, 0.2)]
    expected = [
        functional.binary_cross_entropy(torch.tensor(logit).sigmoid(), torch.tensor(target)) for logit, target in known
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert logits.grad[0, 1] == logits.grad[1, 2] == 0 and logits.grad.isfinite().all()
    # Nothing measured: no loss, but a graph, without which the ranks would wait for each other's gradients.
    nothing = action_unit_loss(logits, torch.full((2, 3), torch.nan))
    nothing.backward()
    assert nothing == 0
