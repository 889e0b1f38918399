"""Memory of forward passes, counted on the meta device: no weights are needed, and nothing is computed."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AttentionInterface

from explllm.models.explllm import ExpLLM
from explllm.models.loss import chunked_loss
from explllm.training.strategies import transformer_blocks


def activation_bytes(model: ExpLLM, frozen_dtype: torch.dtype, text_tokens: int, checkpointing: bool) -> int:
    """Count the bytes that one conversation's forward pass keeps for the backward pass.

    The model's own forward pass runs on the meta device. Each tensor that autograd saves is counted once; weights are
    not counted. Attention is counted as fused: it saves its inputs, its output, and one number per head and query.

    Args:
        model: The model, on the meta device. It is changed in place: frozen weights get `frozen_dtype`, and ``sdpa`` is
            replaced with attention that saves what fused kernels save.
        frozen_dtype: Data type for the frozen weights.
        text_tokens: Text tokens of the conversation, all of them supervised.
        checkpointing: Whether blocks keep only their inputs; the blocks are then recomputed one at a time.

    Returns:
        Bytes, without the logits; see `chunk_bytes`.
    """
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(frozen_dtype)
    AttentionInterface.register("fused_on_meta", _fused_attention)
    for part in (model.vision, model.language):
        if getattr(part.config, "_attn_implementation", None) == "sdpa":
            part.set_attn_implementation("fused_on_meta")
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    saved: dict[int, tuple[int, int, torch.UntypedStorage]] = {}
    inputs: dict[int, int] = {}
    current = [-1]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in saved:
            # Keep the storage, because otherwise its address could be reused.
            saved[storage._cdata] = (storage.nbytes(), current[0], storage)
        return tensor

    def enter(number: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            states = arguments[0] if arguments else options["hidden_states"]
            inputs[number], current[0] = states.numel() * states.element_size(), number

        return hook

    def leave(*_: Any) -> None:
        current[0] = -1

    handles = []
    for number, block in enumerate((*transformer_blocks(model.vision), *transformer_blocks(model.language))):
        handles.append(block.register_forward_pre_hook(enter(number), with_kwargs=True))
        handles.append(block.register_forward_hook(leave))
    model.train()
    size = model.image.size
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        image = model.encode_image(torch.zeros(1, 3, size, size, device="meta"))
        text = model.get_input_embeddings()(torch.zeros(1, text_tokens, dtype=torch.long, device="meta"))
        embeds = torch.cat([image.to(text.dtype), text], dim=1)
        length = embeds.shape[1]
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
        states = model.language.base_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        targets = torch.zeros(text_tokens, dtype=torch.long, device="meta")
        head, states = model.language.get_output_embeddings(), states.last_hidden_state[0, -text_tokens:]
        trains = head.weight.requires_grad
        head.requires_grad_(False)  # the gradient of its weight does not depend on the number of conversations
        chunked_loss(head, states, targets, torch.ones_like(targets, dtype=torch.float32), 0.0, targets[:1])
        head.requires_grad_(trains)
    for handle in handles:
        handle.remove()
    by_block: dict[int, int] = {}
    for nbytes, number, _ in saved.values():
        by_block[number] = by_block.get(number, 0) + nbytes
    if not checkpointing:
        return sum(by_block.values())
    outside = by_block.pop(-1, 0)
    return outside + sum(inputs[number] for number in by_block) + max(by_block.values(), default=0)


class EvaluationBytes(NamedTuple):
    """Memory that the evaluation of one face takes besides the weights, in bytes."""

    recognition: int
    """Peak memory of the forward pass that scores all labels without a cache."""
    explanation: int
    """Cache of the whole conversation, plus the peak memory of the forward pass over image and prompt."""


def evaluation_bytes(model: ExpLLM, prompt_tokens: int, answer_tokens: int) -> EvaluationBytes:
    """Count the memory that the recognition and the explanation of one face take.

    Args:
        model: The model, on the meta device. Call `activation_bytes` first, which converts its weights and attention.
        prompt_tokens: Text tokens of the prompt and of all labels.
        answer_tokens: Tokens of a chain of thought.

    Returns:
        The memory of each, in bytes.
    """
    model.eval()
    size, shape = model.image.size, (1, prompt_tokens)
    with torch.no_grad(), _LiveMemory(model) as live:
        image = model.encode_image(torch.zeros(1, 3, size, size, device="meta"))
        text = model.get_input_embeddings()(torch.zeros(shape, dtype=torch.long, device="meta"))
        embeds = torch.cat([image.to(text.dtype), text], dim=1)
        mask = torch.ones(1, 1, embeds.shape[1], embeds.shape[1], dtype=torch.bool, device="meta")
        model.language(inputs_embeds=embeds, attention_mask=mask, use_cache=False, logits_to_keep=prompt_tokens)
        output = model.language(inputs_embeds=embeds[:, :1], attention_mask=mask[..., :1, :1], use_cache=True)
    layers = output.past_key_values.layers
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)  # of one token
    return EvaluationBytes(live.peak, live.peak + cache * (embeds.shape[1] + answer_tokens))


class _LiveMemory(TorchDispatchMode):
    """Tracks the bytes of live tensors that operations create; the model's weights do not count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return result

    def _free(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live -= nbytes


class _FusedAttention(torch.autograd.Function):
    """Attention that computes nothing and saves what fused kernels save."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise TypeError("activation_bytes() runs no backward pass")


def _fused_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _FusedAttention.apply(query, key, value)
    return output.transpose(1, 2).contiguous(), None
