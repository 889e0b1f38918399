"""ExpLLM and FEALLM as Hugging Face models: vision encoder, projector and language model.

An image and a conversation pass through the parts in this order::

    pixels (B, 3, H, W) ─vision─▶ (B, N, C) ─projector─▶ (B, N, D) ─┐
    token ids (B, T) ──────────── embeddings (B, T, D) ─────────────┴▶ language model ─▶ logits (B, T, V)

- `explllm`: `ExpLLM` and `FEALLM`, with `recognize`, `explain` and `from_pretrained`; `network`: their parts and the
  forward pass; `configuration`: saved settings.
- `feallm`: FEALLM's local clue aggregator and multi-perspective projector, which replace ExpLLM's projector.
- `vision`: token features of any encoder, and the projector; `conv_encoder`: a small encoder to train from scratch.
- `parts`: how each part is trained and which weights are saved; `lora`: adapters; `loss`: the training loss.
- `generation`: label likelihoods and chains of thought, computed with `label_scoring`, `decoding`, `cache` and
  `drafts`.
- `fast_linear`, `last_layer`, `kernels`: faster computation.
- `settings`: settings and presets; `build`: new models; `pretrained`: base weights; `storage`: model folders.
- `known`: the model that comes with the package, and downloads of published weights.
- `released`: conversion of checkpoints in the authors' format.
- `au_regressor`: an action unit regressor; `au_export`: its export to ONNX.

The public names are imported on first use.
"""

import logging

import lazy_loader

# peft imports bitsandbytes if it is installed, and bitsandbytes then warns that an optional CPU kernel is missing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
