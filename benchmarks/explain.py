"""Explanations compared with Hugging Face's generate: python benchmarks/explain.py.

The label is given, and 64 tokens are generated greedily. For each batch size, the second row adds recognition to ours,
and the third decodes without speculation. Our model is trained on texts of the rule-based writer, which are longer than
64 tokens. After fewer steps, its texts repeat a few phrases, which makes speculation look better than it is. The peer's
time does not depend on its weights. Each run starts with the n-grams of the training texts only, without those of
earlier runs. Milliseconds per face, medians with quartiles.
"""

import argparse

import torch
from peer import batch, interleaved, our_model, peer_model, train
from results import save

from explllm.conversation.encoder import IGNORED, Encoded
from explllm.conversation.messages import explanation
from explllm.models.drafts import Drafts

TOKENS = 64


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each job (default: 7)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--steps", type=int, default=200, help="training steps (default: 200)")
    options = parser.parse_args()
    ours, peer = our_model(), peer_model()
    train(ours.train(), options.steps)
    table = ours.eval().drafts.table
    label = ours.labels[0]
    prompt = ours.conversations.encode_prompt(explanation(str(label)))
    results: dict[str, dict[str, list[float]]] = {}
    for size in options.sizes:
        theirs = batch(ours, [Encoded(prompt, (IGNORED,) * len(prompt))] * size, for_peer=True)
        theirs.pop("labels")
        pixels = theirs["pixel_values"]

        def both(pixels: torch.Tensor = pixels) -> None:
            ours.speculate, ours.drafts = True, Drafts(table)
            ours.recognize_and_explain_pixels(pixels, TOKENS)

        def explain(speculate: bool, pixels: torch.Tensor = pixels, size: int = size) -> None:
            ours.speculate, ours.drafts = speculate, Drafts(table)
            ours.explain_pixels(pixels, [label] * size, TOKENS)

        jobs = {
            "ours": lambda explain=explain: explain(True),
            "both": both,
            "plain": lambda explain=explain: explain(False),
            "peer": lambda theirs=theirs: peer.generate(
                **theirs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False
            ),
        }
        times = interleaved(jobs, options.repeats, size)
        results[f"batch {size}, trained model"] = {"ours": times["ours"], "other": times["peer"]}
        results[f"batch {size}, with recognition"] = {"ours": times["both"], "other": times["peer"]}
        results[f"batch {size}, without speculation"] = {"ours": times["plain"], "other": times["peer"]}
    save("explain", "Explanation of 64 tokens", "ms per face", "Hugging Face", results)


if __name__ == "__main__":
    main()
