"""Training steps compared with Hugging Face's: python benchmarks/train_step.py.

Measures the forward pass, backward pass and optimizer step of `explllm` and of Llava with peft, interleaved in one
process, for FER, for label and chain of thought, and for their mixture 0.75:0.25. For the mixture, `explllm` trains on
micro-batches of one kind each, as `explllm fit` does, and the peer on one batch, padded to the longest conversation.
Milliseconds per conversation, medians with quartiles.
"""

import argparse

import torch
from peer import batch, conversations, interleaved, our_model, peer_model
from results import save

from explllm import ExpLLM
from explllm.models.loss import LossSettings

MIXTURES = {"FER": {"fer": 1}, "label + CoT": {"cot": 1}, "0.75:0.25": {"fer": 0.75, "cot": 0.25}}
"""Shares of the kinds of conversations in each job."""


def batches(ours: ExpLLM, mixture: str, size: int, for_peer: bool) -> list[dict[str, torch.Tensor]]:
    """Return the micro-batches of a step of `size` conversations.

    Args:
        ours: Our model, which encodes the conversations.
        mixture: A key of `MIXTURES`.
        size: Conversations per step.
        for_peer: Whether the step is the peer's, which has one batch.
    """
    rows = [conversations(ours, kind, round(size * share)) for kind, share in MIXTURES[mixture].items()]
    if for_peer:
        return [batch(ours, [row for part in rows for row in part], for_peer=True)]
    mine = [batch(ours, part) for part in rows]
    for inputs in mine:
        inputs.pop("attention_mask")  # as in `ExpLLMTask.training_step`
    return mine


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return AdamW for a model's trainable weights."""
    return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: list[dict[str, torch.Tensor]]) -> None:
    """Run the forward pass, backward pass and optimizer step of either model."""
    options = {"training_loss": LossSettings()} if isinstance(model, ExpLLM) else {}
    total = sum(len(part["input_ids"]) for part in inputs)
    for part in inputs:
        (model(**part, **options).loss * (len(part["input_ids"]) / total)).backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each job (default: 7)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="batch sizes (default: 8 16)")
    options = parser.parse_args()
    ours, peer = our_model().train(), peer_model().train()
    optimizers = [optimizer_of(model) for model in (ours, peer)]
    results: dict[str, dict[str, list[float]]] = {}
    for size in options.sizes:
        for mixture in MIXTURES:
            mine, theirs = (batches(ours, mixture, size, for_peer) for for_peer in (False, True))
            jobs = {
                "ours": lambda mine=mine: step(ours, optimizers[0], mine),
                "other": lambda theirs=theirs: step(peer, optimizers[1], theirs),
            }
            results[f"{mixture}, batch {size}"] = interleaved(jobs, options.repeats, size)
    save("train_step", "Training step", "ms per conversation", "Hugging Face", results)


if __name__ == "__main__":
    main()
