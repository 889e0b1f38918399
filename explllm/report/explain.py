"""What ``explllm explain`` does: recognise faces and explain them, on the terminal or as JSON lines."""

import json
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from explllm.core.errors import ConfigError
from explllm.faces.pixels import load_image
from explllm.models.explllm import ExpLLM
from explllm.report.text import print_explained


def explain_images(
    images: Sequence[str], model: str, device: str | None = None, max_new_tokens: int = 320, as_json: bool = False
) -> None:
    """Recognise and explain images, and print the results in order.

    Args:
        images: Paths.
        model: A model's folder, or its name on the Hugging Face hub.
        device: Where the model runs, such as ``cuda``.
        max_new_tokens: Longest chain of thought, in tokens.
        as_json: Print one JSON object a line instead of panels.

    Raises:
        InputError: If an image or the model does not exist or cannot be read, or there is no such device; nothing is
            computed then.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens {max_new_tokens}", remedy="Give at least 1.")
    for image in images:
        load_image(image)
    _check_device(device)
    opened = ExpLLM.from_pretrained(model, device=device)
    recognitions = opened.recognize(list(images))
    console = Console()
    for image, recognition in zip(images, recognitions, strict=True):
        pixels = opened.image(image).unsqueeze(0)
        [cot] = opened.explain_pixels(pixels, [recognition.expression], max_new_tokens)
        if as_json:
            line = {
                "image": image,
                "expression": recognition.expression,
                "probabilities": recognition.probabilities,
                "key_observations": cot.key_observations,
                "interpretation": cot.interpretation,
                "conclusion": cot.conclusion,
                "text": cot.text,
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        else:
            print_explained(console, image, None, recognition, cot)


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {device} cannot be used", remedy="Give one that this machine has, such as cpu or cuda:0."
        ) from error
