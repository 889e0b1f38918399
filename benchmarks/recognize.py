"""Recognition beside Hugging Face's generate: python benchmarks/recognize.py.

`explllm` scores every label. The peer generates the label greedily, 4 tokens. The bare prefill is our encoder and
language model over image and prompt, last logits only. Milliseconds per face, medians with quartiles.
"""

import argparse

import torch
from peer import batch, interleaved, our_model, peer_model
from results import save

from explllm.conversation.encoder import IGNORED, Encoded
from explllm.conversation.messages import recognition


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="runs of each job (default: 9)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    options = parser.parse_args()
    ours, peer = our_model(), peer_model()
    prompt = ours.conversations.encode_prompt(recognition())
    results: dict[str, dict[str, list[float]]] = {}
    for size in options.sizes:
        rows = [Encoded(prompt, (IGNORED,) * len(prompt))] * size
        inputs, theirs = batch(ours, rows), batch(ours, rows, for_peer=True)
        theirs.pop("labels")

        @torch.inference_mode()
        def prefill(inputs: dict = inputs) -> None:
            embeds = ours.embed(inputs["input_ids"], ours.encode_image(inputs["pixel_values"]))
            ours.language(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

        jobs = {
            "ours": lambda inputs=inputs: ours.recognize_pixels(inputs["pixel_values"]),
            "prefill": prefill,
            "peer": lambda theirs=theirs: peer.generate(**theirs, max_new_tokens=4, min_new_tokens=4, do_sample=False),
        }
        times = interleaved(jobs, options.repeats, size)
        results[f"batch {size}, beside the bare prefill"] = {"ours": times["ours"], "other": times["prefill"]}
        results[f"batch {size}, beside Hugging Face's generate"] = {"ours": times["ours"], "other": times["peer"]}
    save("recognize", "Recognition", "ms per face", "other", results)


if __name__ == "__main__":
    main()
