"""ExpLLM and FEALLM as Hugging Face models: vision encoder, projector and language model.

An image and a conversation pass through the parts in this order::

    pixels (B, 3, H, W) ─vision─▶ (B, N, C) ─projector─▶ (B, N, D) ─┐
    token ids (B, T) ──────────── embeddings (B, T, D) ─────────────┴▶ language model ─▶ logits (B, T, V)

- `explllm`: `ExpLLM` and `FEALLM`, with `recognize`, `explain` and `from_pretrained`; `configuration`: saved settings.
- `feallm`: FEALLM's local clue aggregator and multi-perspective projector, in the place of ExpLLM's projector.
- `vision`: token features of any encoder, and the projector; `conv_encoder`: a small encoder to train from scratch.
- `parts`: what trains in each part and which weights are saved; `lora`: adapters; `loss`: the training loss.
- `generation`: label likelihoods and chains of thought.
- `build`: presets and new models; `pretrained`: base weights; `storage`: model folders.
- `released`: conversion of checkpoints in the authors' format.
- `au_regressor`: a regressor of action units, with its export to ONNX in `au_export`.

The public names below load on first use.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.models.au_regressor import ActionUnitRegressor, RegressorSettings
    from explllm.models.build import NetworkSettings, build_on_meta
    from explllm.models.configuration import ExpLLMConfig
    from explllm.models.explllm import FEALLM, ExpLLM
    from explllm.models.feallm import FEALLMSettings
    from explllm.models.generation import Recognition
    from explllm.models.lora import LoraSettings

_MODULES = {
    "ActionUnitRegressor": "au_regressor",
    "ExpLLM": "explllm",
    "ExpLLMConfig": "configuration",
    "FEALLM": "explllm",
    "FEALLMSettings": "feallm",
    "LoraSettings": "lora",
    "NetworkSettings": "build",
    "Recognition": "generation",
    "RegressorSettings": "au_regressor",
    "build_on_meta": "build",
}

__all__ = [
    "FEALLM",
    "ActionUnitRegressor",
    "ExpLLM",
    "ExpLLMConfig",
    "FEALLMSettings",
    "LoraSettings",
    "NetworkSettings",
    "Recognition",
    "RegressorSettings",
    "build_on_meta",
]

# peft imports bitsandbytes if it is installed, which warns that an optional CPU kernel is missing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
