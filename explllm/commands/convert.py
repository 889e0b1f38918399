"""What ``explllm convert`` does and says."""

import sys
from pathlib import Path

from explllm.models import storage
from explllm.models.explllm import ExpLLM
from explllm.models.released.convert import convert_released


def convert_released_weights(folder: str, out: str, merge: bool = False, vision_heads: int | None = None) -> None:
    """Convert a folder in the authors' released format, and say what was found in it.

    Args:
        folder: The folder to read.
        out: The folder to write.
        merge: Fold LoRA into the base weights.
        vision_heads: Attention heads of the encoder, where the caller knows them.

    Raises:
        InputError: As for `explllm.models.released.convert.convert_released`.
    """
    sizes = convert_released(folder, out, merge, vision_heads)
    if sizes.vision_heads_assumed:
        sys.stderr.write(
            f"warning: {sizes.vision_heads} attention heads are assumed in the vision encoder of width "
            f"{sizes.vision_width}: no released file says how many. Give them by --vision-heads if you know better.\n"
        )
    sys.stdout.write(
        f"vision encoder   width {sizes.vision_width}, {sizes.vision_depth} blocks, {sizes.vision_heads} heads, "
        f"{_lora(sizes.vision_lora)}\n"
        f"language model   width {sizes.hidden}, {sizes.layers} layers, {sizes.heads} heads, "
        f"{_lora(sizes.language_lora)}\n"
        f"wrote            {out}{' (LoRA folded in)' if merge else ''}\n"
        f"try              explllm explain IMAGE --model {out}\n"
    )


def convert_merged(folder: str, out: str) -> None:
    """Write a model's parts as plain Hugging Face models, LoRA folded into them.

    Args:
        folder: The model to read.
        out: The folder to write: ``vision`` and ``language`` in it are the parts.

    Raises:
        InputError: If the model cannot be read, or `out` is there already.
    """
    target = Path(out)
    storage.check_target(target, replace=False)
    storage.save(ExpLLM.from_pretrained(folder), target, merge=True, replace=False)
    sys.stdout.write(f"wrote   {target}: {target / 'vision'} and {target / 'language'} are plain Hugging Face models\n")


def _lora(rank: int | None) -> str:
    return "no LoRA" if rank is None else f"LoRA of rank {rank}"
