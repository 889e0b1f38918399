"""Supported training strategies, and the FSDP2 strategy (``--trainer.strategy fsdp2``)."""

import ctypes
import mmap
import sys
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import nn
from torch.distributed import DistError
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from explllm.core.errors import ConfigError
from explllm.models.explllm import ExpLLM
from explllm.models.lora import is_lora
from explllm.models.parts import MultiPartModel

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism over all devices (PyTorch's FSDP2), on GPUs or, over gloo, on CPUs.

    Each device stores a shard of every weight, gradient and optimizer state; a transformer block's weights are gathered
    when it runs. Checkpoints have the same content and format as under ``ddp`` and on one device: full tensors of the
    weights that no pretrained base model provides. A run can resume under another strategy or number of devices.
    """

    def __init__(self, **options: Any) -> None:
        """Create the strategy; `options` are Lightning's `process_group_backend` and `timeout`."""
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Start the processes and create the device mesh."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning restores optimizers from the checkpoint, as under ``ddp``."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the weights to save; every rank must call it.

        Returns:
            On rank 0, full tensors on the CPU by name; on other ranks, an empty dictionary.
        """
        return {f"model.{name}": value for name, value in full_weights(self._model_of_task(), self.is_global_zero)}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather an optimizer's state; every rank must call it.

        Returns:
            On rank 0, the state dictionary with full tensors on the CPU; on other ranks, an empty dictionary.
        """
        state = getattr(optimizer, "_optimizer", optimizer).state_dict()
        moments = {}
        for number, values in state["state"].items():
            gathered = {name: _full(value) for name, value in values.items()}
            if self.is_global_zero:
                moments[number] = gathered
        return {**state, "state": moments} if self.is_global_zero else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the checkpoint on rank 0."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy this rank's shards of the checkpoint's weights into the model."""
        state = self._model_of_task().state_dict(keep_vars=True)
        for name, value in checkpoint["state_dict"].items():
            target = state[name.removeprefix("model.")]
            with torch.no_grad():
                target.copy_(_shard_like(value, target))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the optimizers with this rank's shards of their states."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
            moments = {
                number: {
                    name: _shard_like(value, parameters[number]) if value.ndim else value
                    for name, value in values.items()
                }
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": moments})

    def _model_of_task(self) -> MultiPartModel:
        assert self.lightning_module is not None
        model: MultiPartModel = self.lightning_module.model  # pyrefly: ignore[bad-assignment]
        return model


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="Fully sharded data parallelism (FSDP2)")


def check_trainer(trainer: Trainer) -> None:
    """Check that a trainer's strategy and precision work with the tasks.

    Args:
        trainer: The trainer.

    Raises:
        ConfigError: If the strategy or the precision is not supported; ``bf16-true``, for example, would round
            trainable weights.
    """
    strategy = trainer.strategy
    # Subclasses, such as Lightning's DeepSpeedStrategy, write other checkpoints or are untested.
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy, FSDP2Strategy):
        raise ConfigError(
            f"the strategy {type(strategy).__name__} is not supported",
            remedy="Use --trainer.strategy ddp, or fsdp2 if the model does not fit on one device.",
        )
    if trainer.precision not in _PRECISIONS:
        raise ConfigError(
            f"the precision {trainer.precision} is not supported: it rounds the trainable weights",
            remedy=f"Use --trainer.precision {', '.join(_PRECISIONS)}; `network.base_dtype` sets the type of frozen "
            "base weights.",
        )


def check_limits(trainer: Trainer) -> None:
    """Check that the number of optimizer steps, which the learning rate's schedule needs, has a limit.

    Args:
        trainer: The trainer.

    Raises:
        ConfigError: If neither epochs nor steps are limited.
    """
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ConfigError(
            "neither trainer.max_epochs nor trainer.max_steps limits the run: the learning rate's schedule needs the "
            "number of steps",
            remedy="Set one of them. trainer.max_time may stop the run earlier.",
        )


def is_slow_in_bfloat16(accelerator: str) -> bool:
    """Return whether training runs on a CPU without bfloat16 instructions.

    With AVX2 alone, a training step of `faces.yaml` takes about eight times as long in bfloat16 as in float32.

    Args:
        accelerator: Lightning's name for the devices.
    """
    if accelerator != "cpu" and (accelerator != "auto" or torch.accelerator.is_available()):
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return not (torch.backends.mkldnn.is_available() and supported is not None and supported())


def is_rank_failure(error: BaseException) -> bool:
    """Return whether an error means that another rank exited: its connection broke or timed out."""
    message = str(error)
    broken = "onnection" in message and ("peer" in message or "reset" in message)
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and (broken or "Timed out" in message))


def shard(
    model: MultiPartModel, mesh: DeviceMesh, frozen_dtype: torch.dtype | None = None, pretrained: Container[str] = ()
) -> None:
    """Shard a model's weights over the devices of a mesh.

    Each transformer block of the encoder and the language model is one unit, which is gathered when it runs. If a block
    also has frozen weights, its trainable weights form a separate unit: frozen bfloat16 and trainable float32 weights
    cannot share a buffer, and frozen units need no gradient buffer. The projector, the heads, the embeddings and the
    output layer are units, too; all other weights (norms, patch embedding) belong to the root.

    The units are created on the meta device. Then each rank copies its shards, one weight at a time, to its device in
    the final data type. If the weights are mapped from files, all ranks of a machine share one copy.

    Args:
        model: The model, with its weights in place.
        mesh: A one-dimensional mesh.
        frozen_dtype: Data type for the frozen weights of pretrained parts; by default, they keep theirs. Trainable
            weights become float32.
        pretrained: Names of the pretrained parts.
    """
    weights = dict(model.named_parameters())
    dtypes = {name: weight.dtype for name, weight in weights.items()}
    rounded = set()
    for part_name, part in model.parts().items():
        for key, weight in part.module.named_parameters(prefix=part_name):
            if weight.requires_grad:
                dtypes[key] = torch.float32
                # Round as on one device, where a base is loaded in `frozen_dtype`, then converted to float32.
                if part.base and not is_lora(key):
                    rounded.add(key)
            elif frozen_dtype is not None and part_name in pretrained:
                dtypes[key] = frozen_dtype
    _move_to_meta(model, {id(weight): dtypes[name] for name, weight in weights.items()})
    _create_units(model, mesh)
    shards = {}
    targets = model.state_dict(keep_vars=True)
    parameters: dict[int, nn.Parameter] = {}
    for name, target in targets.items():  # `weights` has only the first of tied weights
        if not isinstance(target, DTensor):
            continue
        if id(target) not in parameters:
            full = weights.pop(name)
            local = _local_shard(full.detach(), target)
            if name in rounded and frozen_dtype is not None:
                local = local.to(frozen_dtype)
            local = local.to(mesh.device_type, target.dtype, copy=True, memory_format=torch.contiguous_format)
            tensor = DTensor.from_local(
                local, mesh, target.placements, run_check=False, shape=target.shape, stride=target.stride()
            )
            parameters[id(target)] = nn.Parameter(tensor, target.requires_grad)
            _release_pages(full)
        shards[name] = parameters[id(target)]
    model.load_state_dict(shards, strict=False, assign=True)


def _move_to_meta(model: nn.Module, dtypes: Mapping[int, torch.dtype]) -> None:
    """Replace the parameters with empty ones of the given types on the meta device; tied weights remain tied.

    Args:
        model: The model.
        dtypes: Data type of each parameter, by its `id`.
    """
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            if id(weight) not in empty:
                # FSDP2 does not accept weights in other memory formats, such as channels last.
                form = torch.contiguous_format
                values = torch.empty_like(weight, dtype=dtypes[id(weight)], device="meta", memory_format=form)
                empty[id(weight)] = nn.Parameter(values, weight.requires_grad)
            module.register_parameter(name, empty[id(weight)])


def _create_units(model: MultiPartModel, mesh: DeviceMesh) -> None:
    parts = [part.module for part in model.parts().values()]
    for part in parts:
        for block in transformer_blocks(part) if isinstance(part, PreTrainedModel) else ():
            if trainable := _trainable_modules(block):
                fully_shard(trainable, mesh=mesh)
            fully_shard(block, mesh=mesh)
        if not isinstance(part, PreTrainedModel):
            fully_shard(part, mesh=mesh)
    if isinstance(model, ExpLLM):
        embedding, head = model.get_input_embeddings(), model.language.get_output_embeddings()
        if head is None or head.weight is embedding.weight:
            fully_shard([embedding, *([] if head is None else [head])], mesh=mesh)
        else:
            fully_shard(embedding, mesh=mesh)
            fully_shard(head, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for method in model.entry_points:
        register_fsdp_forward_method(model, method)


def _local_shard(value: torch.Tensor, target: DTensor) -> torch.Tensor:
    """Return this rank's rows of a full tensor, as FSDP2 divides them."""
    rank, chunks = target.device_mesh.get_local_rank(), value.chunk(target.device_mesh.size())
    return chunks[rank] if rank < len(chunks) else value[:0]


def _release_pages(tensor: torch.Tensor) -> None:
    """Release a tensor's memory to the system; its values are lost.

    A file of base weights is mapped as a whole until the last of its tensors is deleted. Without this function, the
    pages that were read would count as memory of the process until then.
    """
    if sys.platform == "linux" and tensor.device.type == "cpu":
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page  # whole pages only: the first and last ones are shared
        size = (tensor.data_ptr() + tensor.nbytes) // page * page - start
        if size > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def transformer_blocks(part: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of a Hugging Face model: the entries of its first module list.

    The list is empty for models without a module list, such as small convolutional encoders.
    """
    lists = [module for module in part.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return list(lists[0]) if lists else []


def full_weights(model: MultiPartModel, keep: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """Gather the weights that no pretrained base model provides, one at a time; every rank must call it.

    Args:
        model: An ExpLLM or action unit regressor, sharded or not.
        keep: Whether this rank needs them.

    Yields:
        Names and full tensors on the CPU; nothing if `keep` is false.
    """
    for name, value in model.weights_to_save().items():
        full = _full(value)
        if keep:
            yield name, full


def _trainable_modules(block: nn.Module) -> list[nn.Module]:
    """Return a block's modules that own trainable weights; an empty list if the block has no frozen weights."""
    if all(weight.requires_grad for weight in block.parameters()):
        return []
    return [
        module for module in block.modules() if any(weight.requires_grad for weight in module.parameters(recurse=False))
    ]


def _full(value: Any) -> Any:
    value = value.detach() if isinstance(value, torch.Tensor) else value
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu() if isinstance(value, torch.Tensor) else value


def _shard_like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the full tensor `value` in the layout of `target`."""
    if not isinstance(target, DTensor):
        return value
    # Every rank has read the same file, so no communication is needed.
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
