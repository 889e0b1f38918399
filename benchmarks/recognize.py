"""Recognition compared with Hugging Face's generate: python benchmarks/recognize.py.

`explllm` scores every label. The peer generates the label greedily, in 4 tokens. The bare prefill runs our encoder and
language model over image and prompt, and computes only the last logits. With `--model`, a model trained with faces.yaml
is measured too. The peer is then transformers' generate with the same weights: once after our encoder, and once after
the same encoder made of plain PyTorch modules. All sides encode the mirror images, too. Milliseconds per face, medians
with quartiles.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from typing import cast

import torch
from peer import batch, interleaved, our_model, peer_model
from results import save
from torch import nn

from explllm import ExpLLM
from explllm.conversation.encoder import IGNORED, Encoded
from explllm.conversation.messages import recognition
from explllm.models.conv_encoder import ConvBlock

LABEL_TOKENS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="runs of each job (default: 9)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--model", help="folder of a model of faces.yaml, to measure it too")
    options = parser.parse_args()
    ours, peer = our_model(), peer_model()
    prompt = ours.conversations.encode_prompt(recognition())
    results: dict[str, dict[str, list[float]]] = {}
    for size in options.sizes:
        theirs = batch(ours, [Encoded(prompt, (IGNORED,) * len(prompt))] * size, for_peer=True)
        theirs.pop("labels")
        pixels = theirs["pixel_values"]
        jobs = our_jobs(ours, pixels) | {"peer": lambda theirs=theirs: peer.generate(**theirs, **LABEL_TOKENS)}
        results |= rows(interleaved(jobs, options.repeats, size), f"batch {size}")
    if options.model:
        trained = ExpLLM.from_pretrained(options.model)
        plain = with_plain_encoder(trained)
        for size in options.sizes:
            pixels = torch.randn(size, 3, trained.image.size, trained.image.size)
            jobs = our_jobs(trained, pixels) | {
                "generate": lambda pixels=pixels: generate(trained, pixels),
                "peer": lambda pixels=pixels: generate(plain, pixels),
            }
            # A run takes only milliseconds, so it is repeated more often.
            times = interleaved(jobs, 10 * options.repeats, size)
            name = f"model of faces.yaml, batch {size}"
            results |= rows(times, name)
            results[f"{name}, vs. generate after our encoder"] = {"ours": times["ours"], "other": times["generate"]}
    save("recognize", "Recognition", "ms per face", "other", results)


def our_jobs(model: ExpLLM, pixels: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return functions that run recognition and the bare prefill on a batch of images."""

    @torch.inference_mode()
    def prefill() -> None:
        embeds = prompt_embeds(model, model.encode_image(pixels))
        model.language(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    return {"ours": lambda: model.recognize_pixels(pixels), "prefill": prefill}


def prompt_embeds(model: ExpLLM, image_embeds: torch.Tensor) -> torch.Tensor:
    """Return the embeddings of image and prompt, (B, T, D)."""
    ids = torch.tensor(model.conversations.encode_prompt(recognition()))
    return model.embed(ids.expand(len(image_embeds), -1), image_embeds)


@torch.inference_mode()
def generate(model: ExpLLM, pixels: torch.Tensor) -> None:
    """Generate a label with transformers."""
    embeds = prompt_embeds(model, model.encode_image(pixels))
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    model.language.generate(inputs_embeds=embeds, attention_mask=mask, pad_token_id=0, **LABEL_TOKENS)


class PlainBlock(nn.Module):
    """A `ConvBlock` as one would write it for training."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.stem, self.pool = nn.Sequential(*block.stem), block.pool
        self.residual = nn.ModuleList(nn.Sequential(*cast(nn.Sequential, layer)) for layer in block.residual)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        features = self.stem(features).relu()
        for layer in self.residual:
            features = (layer(features) + features).relu()
        return cast(torch.Tensor, self.pool(features))


def with_plain_encoder(model: ExpLLM) -> ExpLLM:
    """Return a copy of a model whose convolutional encoder consists of plain PyTorch modules."""
    plain = deepcopy(model)
    blocks = nn.Sequential(*(PlainBlock(cast(ConvBlock, block)) for block in plain.vision.blocks))
    plain.vision.blocks = blocks.to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
    pixels = torch.rand(2, 3, model.image.size, model.image.size)
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval().encode_image(pixels), model.eval().encode_image(pixels))
    return plain


def rows(times: dict[str, list[float]], name: str) -> dict[str, dict[str, list[float]]]:
    """Return the two table rows of a model and batch size."""
    return {
        f"{name}, vs. a bare prefill": {"ours": times["ours"], "other": times["prefill"]},
        f"{name}, vs. Hugging Face's generate": {"ours": times["ours"], "other": times["peer"]},
    }


if __name__ == "__main__":
    main()
