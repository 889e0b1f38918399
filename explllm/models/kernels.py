"""Options for faster computation in the language model: packing, FlashAttention and Liger's kernels."""

from transformers import PreTrainedModel

from explllm.core.errors import ConfigError
from explllm.models.label_scoring import accepts_positions


def set_attention(language: PreTrainedModel, name: str) -> None:
    """Set the attention implementation, in place.

    Args:
        language: The language model.
        name: The implementation's name in transformers, such as ``flash_attention_2``.

    Raises:
        ConfigError: If the implementation is unknown, or its package is not installed.
    """
    try:
        language.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"the attention implementation {name} cannot be used: {str(error).splitlines()[0]}",
            remedy="Install its package, or leave `model.attention` unset.",
        ) from error


def check_packing(language: PreTrainedModel) -> None:
    """Check that a language model can keep several conversations in one row separate.

    Raises:
        ConfigError: If the model cannot do so, because it computes positions itself or has layers other than full or
            sliding-window attention.
    """
    if not accepts_positions(language):
        raise ConfigError(
            f"`model.packing` would mix conversations: {type(language).__name__} has layers without attention, or "
            "computes its own positions",
            remedy="Remove it.",
        )


def add_liger_kernels(language: PreTrainedModel) -> None:
    """Replace norms, rotary positions and MLPs with Liger's Triton kernels (Hsu et al. 2024), in place.

    The loss keeps its own implementation, `explllm.models.loss.chunked_loss`.

    Args:
        language: The language model.

    Raises:
        ConfigError: If liger-kernel is not installed.
    """
    # Imported late, because the module also imports peft.
    from transformers.integrations.liger import apply_liger_kernel

    try:
        apply_liger_kernel(language, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    except ImportError as error:
        raise ConfigError("liger-kernel is not installed", remedy="Run `pip install liger-kernel`.") from error
