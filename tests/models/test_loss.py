import torch
from torch.nn import functional

from explllm.models.loss import answer_numbers, answer_positions, conversation_loss


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


def test_answers_of_a_conversation_have_equal_weight():
    torch.manual_seed(0)
    labels = torch.full((3, 12), -100)
    labels[0, 2:4], labels[0, 6:12], labels[1, 2:4] = torch.tensor([1, 2]), torch.arange(6), torch.tensor([3, 2])
    logits = torch.randn(3, 12, 11)
    rows, columns, targets = answer_positions(labels)
    found = conversation_loss(logits[rows, columns], targets, rows, 3, rounds=answer_numbers(rows, columns))

    def mean(row, start, end):
        return functional.cross_entropy(logits[row, start - 1 : end - 1], labels[row, start:end])

    expected = [(mean(0, 2, 4) + mean(0, 6, 12)) / 2, mean(1, 2, 4), torch.tensor(0.0)]
    torch.testing.assert_close(found, torch.stack(expected).mean())
