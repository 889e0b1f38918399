"""Convert a model to a folder that `explllm explain --model` and ExpLLM.from_pretrained can open.

  explllm convert released Downloads/ExpLLM models/explllm
  explllm convert merge runs/rafdb/model models/rafdb_merged
  explllm convert checkpoint runs/rafdb/checkpoints/last.ckpt models/rafdb_last
  explllm convert half runs/pocket/model models/pocket

Nothing is downloaded.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from explllm.commands.parser import Option


def released(
    folder: Path,
    out: Path,
    *,
    merge: bool = False,
    vision_heads: Annotated[int | None, Option(minimum=1)] = None,
) -> None:
    """Convert the weights that the authors of ExpLLM released.

    Args:
        folder: The folder to read, with pytorch_model.bin, config.json and the tokenizer.
        out: The folder to write; it must not exist.
        merge: Merge LoRA into the base weights.
        vision_heads: Number of attention heads of the vision encoder, which no released file states. Without it, the
            number is inferred from the encoder's width; for widths other than DINOv2's, a warning is printed.

    Raises:
        InputError: As for `explllm.models.released.convert.convert_released`.
    """
    from explllm.models.released.convert import convert_released

    sizes = convert_released(str(folder), str(out), merge, vision_heads)
    if sizes.vision_heads_assumed:
        sys.stderr.write(
            f"warning: assuming {sizes.vision_heads} attention heads in the vision encoder of width "
            f"{sizes.vision_width}, which no released file states. Set a different number with --vision_heads.\n"
        )
    sys.stdout.write(
        f"vision encoder   width {sizes.vision_width}, {sizes.vision_depth} blocks, {sizes.vision_heads} heads, "
        f"{_lora(sizes.vision_lora)}\n"
        f"language model   width {sizes.hidden}, {sizes.layers} layers, {sizes.heads} heads, "
        f"{_lora(sizes.language_lora)}\n"
        f"wrote            {out}{' (LoRA merged)' if merge else ''}\n"
        f"try              explllm explain IMAGE --model {out}\n"
    )


def merge(folder: Path, out: Path) -> None:
    """Merge LoRA into a trained model and save its parts as plain Hugging Face models.

    Args:
        folder: The model to read: runs/NAME/model.
        out: The folder to write, with the parts `vision` and `language`; it must not exist.

    Raises:
        InputError: If the model cannot be read, or `out` exists.
    """
    from explllm.models import storage
    from explllm.models.explllm import ExpLLM

    storage.check_target(out, replace=False)
    # LoRA cannot be merged into 4-bit weights; LoRA trained on these is merged into the original base weights.
    storage.save(ExpLLM.from_pretrained(folder, load_in_4bit=False), out, merge=True, replace=False)
    sys.stdout.write(f"wrote   {out}: {out / 'vision'} and {out / 'language'} are plain Hugging Face models\n")


def checkpoint(file: Path, out: Path) -> None:
    """Convert a checkpoint that `fit` wrote to a model folder.

    Args:
        file: The checkpoint: runs/NAME/checkpoints/last.ckpt.
        out: The folder to write; it must not exist.

    Raises:
        InputError: If the checkpoint cannot be read, or `out` exists.
    """
    from explllm.core.errors import MissingPathError
    from explllm.models import storage
    from explllm.training.checkpoints import model_from_checkpoint

    if not file.is_file():
        raise MissingPathError("the checkpoint does not exist", where=file, remedy="Check the path.")
    storage.check_target(out, replace=False)
    model_from_checkpoint(file).save_pretrained(out)
    sys.stdout.write(f"wrote   {out}\n")


def half(folder: Path, out: Path) -> None:
    """Write a model's own weights in float16, at half the size.

    They become float32 again when the model is loaded.

    Args:
        folder: The model to read: runs/NAME/model.
        out: The folder to write; it must not exist.

    Raises:
        InputError: If the model cannot be read, or `out` exists.
    """
    import torch

    from explllm.models import storage
    from explllm.models.explllm import ExpLLM

    storage.check_target(out, replace=False)
    model = ExpLLM.from_pretrained(folder)
    # Frozen weights would stay in float16 after loading, which CPUs do not support for all operations.
    if model.config.vision_train == "frozen" and model.config.vision_base is None:
        model.config.vision_train = "full"
    if model.config.text_train == "frozen" and model.config.text_base is None:
        model.config.text_train = "full"
    weights = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in model.weights_to_save().items()
    }
    storage.save(model, out, replace=False, weights=weights)
    sys.stdout.write(f"wrote   {out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.1f} MB\n")


COMMANDS: dict[str, Callable[..., int | None]] = {
    "released": released,
    "merge": merge,
    "checkpoint": checkpoint,
    "half": half,
}


def _lora(rank: int | None) -> str:
    return "no LoRA" if rank is None else f"LoRA of rank {rank}"
