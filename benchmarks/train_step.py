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

from explllm.models.loss import LossSettings


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each job (default: 7)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="batch sizes (default: 8 16)")
    options = parser.parse_args()
    ours, peer = our_model().train(), peer_model().train()
    optimizers = [torch.optim.AdamW([w for w in model.parameters() if w.requires_grad]) for model in (ours, peer)]

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict], **more: bool) -> None:
        total = sum(len(inputs["input_ids"]) for inputs in batches)
        for inputs in batches:
            (model(**inputs, **more).loss * (len(inputs["input_ids"]) / total)).backward()
        optimizer.step()
        optimizer.zero_grad()

    results: dict[str, dict[str, list[float]]] = {}
    for size in options.sizes:
        for kind, shares in (("FER", (1, 0)), ("label + CoT", (0, 1)), ("0.75:0.25", (0.75, 0.25))):
            counts = {name: round(size * share) for name, share in zip(("fer", "cot"), shares, strict=True) if share}
            rows = [conversations(ours, name, count) for name, count in counts.items()]
            mine = [batch(ours, part) for part in rows]
            for inputs in mine:
                inputs.pop("attention_mask")  # as in `ExpLLMTask.training_step`
            theirs = [batch(ours, [row for part in rows for row in part], for_peer=True)]
            jobs = {
                "ours": lambda mine=mine: step(ours, optimizers[0], mine, training_loss=LossSettings()),
                "peer": lambda theirs=theirs: step(peer, optimizers[1], theirs),
            }
            times = interleaved(jobs, options.repeats, size)
            results[f"{kind}, batch {size}"] = {"ours": times["ours"], "other": times["peer"]}
    save("train_step", "Training step", "ms per conversation", "Hugging Face", results)


if __name__ == "__main__":
    main()
