"""Explanations beside Hugging Face's generate: python benchmarks/explain.py.

The label is given, and 64 tokens are generated greedily. The second row of each batch size adds recognition to ours.
With random weights the end token, one of 32,000, practically never wins. Milliseconds per face, medians with quartiles.
"""

import argparse

import torch
from host import environment
from peer import batch, interleaved, our_model, peer_model, row

from explllm.conversation.encoder import IGNORED, Encoded
from explllm.conversation.messages import explanation

TOKENS = 64


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each job (default: 7)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    options = parser.parse_args()
    ours, peer = our_model(), peer_model()
    label = ours.labels[0]
    prompt = ours.conversations.encode_prompt(explanation(str(label)))
    print(f"{environment()}, {torch.get_num_threads()} threads\n")
    print("| faces | explllm, ms | Hugging Face, ms | ratio |")
    print("|---|---|---|---|")
    for size in options.sizes:
        theirs = batch(ours, [Encoded(prompt, (IGNORED,) * len(prompt))] * size, for_peer=True)
        theirs.pop("labels")
        pixels = theirs["pixel_values"]

        def both(pixels: torch.Tensor = pixels) -> None:
            ours.recognize_and_explain_pixels(pixels, TOKENS)

        jobs = {
            "ours": lambda pixels=pixels, size=size: ours.explain_pixels(pixels, [label] * size, TOKENS),
            "both": both,
            "peer": lambda theirs=theirs: peer.generate(
                **theirs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False
            ),
        }
        seconds = interleaved(jobs, options.repeats, size)
        print(row(f"batch {size}", seconds["ours"], seconds["peer"]))
        print(row(f"batch {size}, with recognition", seconds["both"], seconds["peer"]), flush=True)


if __name__ == "__main__":
    main()
