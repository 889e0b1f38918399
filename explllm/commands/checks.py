"""Cheap checks of resolved settings, before anything is downloaded, loaded or built."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from explllm.commands.config_files import shipped_configs
from explllm.core.errors import ConfigError, MissingPathError

LOGGER_PACKAGES = {
    "TensorBoardLogger": ("tensorboard", "explllm[tensorboard]"),
    "WandbLogger": ("wandb", "explllm[wandb]"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "CometLogger": ("comet_ml", "comet-ml"),
    "NeptuneLogger": ("neptune", "neptune"),
}
"""For each logger, the package that it imports, and what to pass to ``pip install``."""

RUN_FOLDER = "RUN_FOLDER"
"""Placeholder for the run folder in a logger's ``save_dir`` until the run folder is known."""

_TRUE_PRECISIONS = ("16-true", "bf16-true", "64-true", "transformer-engine", "transformer-engine-float16")
_SPAWNING = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def check_trainer(trainer: Namespace, fitting: bool) -> None:
    """Reject trainer settings that cannot work or that would train nothing.

    Raises:
        ConfigError: If a setting is out of range or not supported.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}",
            remedy="Omit it: it follows from data.batch_size, data.micro_batch_size and the devices.",
        )
    if str(trainer.precision) in _TRUE_PRECISIONS:
        raise ConfigError(
            f"trainer.precision is {trainer.precision}: LoRA and projector train in float32",
            remedy="Use 32-true, bf16-mixed or 16-mixed; frozen weights follow model.network.base_dtype.",
        )
    if str(trainer.strategy) in _SPAWNING:
        raise ConfigError(
            f"trainer.strategy is {trainer.strategy}, which is not supported", remedy="Use ddp or fsdp2 instead."
        )
    devices = str(trainer.devices)
    limit = max(8, os.cpu_count() or 1)
    if trainer.accelerator == "cpu" and devices.isdecimal() and int(devices) > limit:
        # Each device is a process with a copy of the model; so many copies would exhaust the machine's memory.
        raise ConfigError(f"trainer.devices is {devices} on the CPU", remedy=f"Use at most {limit}.")
    if trainer.gradient_clip_val is not None and not trainer.gradient_clip_val >= 0:
        raise ConfigError(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}",
            remedy="Use a positive number, or null to turn clipping off.",
        )
    if not fitting:
        return
    if trainer.check_val_every_n_epoch is not None and trainer.check_val_every_n_epoch < 1:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}",
            remedy="Use at least 1; --trainer.limit_val_batches 0 turns validation off.",
        )
    if trainer.limit_train_batches == 0:
        raise ConfigError("trainer.limit_train_batches is 0: no training would run", remedy="Use 1 or more.")
    for name in ("max_epochs", "max_steps"):
        value = getattr(trainer, name)
        if value is not None and (value == 0 or value < -1):
            raise ConfigError(f"trainer.{name} is {value}: no training would run", remedy="Use at least 1.")


def check_model_paths(model: Namespace, starting: bool) -> None:
    """Reject local model folders that do not exist, before any weights are loaded.

    Args:
        model: Settings of the task.
        starting: Whether a run starts from ``init_from``. If it resumes, it does not need this folder.

    Raises:
        MissingPathError: If a folder does not exist. If the ``init_from`` model is missing and a shipped configuration
            trains it, the message names that configuration.
    """
    settings = model.get("init_args") or Namespace()
    start = settings.get("init_from")
    if starting and start is not None and not Path(start).is_dir():
        name = Path(start).parent.name
        shipped = (shipped_configs() / f"{name}.yaml").is_file()
        train = f"Train it first: `explllm fit --config {name}.yaml`. Or " if shipped else "Check the path, or "
        remedy = f"{train}start without it: --model.init_from null."
        raise MissingPathError("the model of --model.init_from does not exist", where=start, remedy=remedy)
    network = settings.get("network") or Namespace()
    for part in ("vision", "language"):
        name = network.get(part)
        if isinstance(name, str | os.PathLike) and _is_local(str(name)) and not Path(name).expanduser().is_dir():
            raise MissingPathError(
                f"the folder of --model.network.{part} does not exist",
                where=name,
                remedy="Check the path, or give a name on the Hugging Face hub, such as facebook/dinov2-large.",
            )


def check_loggers(loggers: list[Any], run_dir: str) -> None:
    """Reject loggers whose package is missing; let loggers without a folder write to the run folder.

    Raises:
        ConfigError: If a package is missing.
    """
    for logger in loggers:
        if not isinstance(logger, Namespace):
            continue
        name = str(logger.get("class_path", "")).rpartition(".")[2]
        package, install = LOGGER_PACKAGES.get(name, (None, ""))
        if package is not None and find_spec(package) is None:
            raise ConfigError(
                f"--trainer.logger {name} needs the package {package}, which is not installed",
                remedy=f'Install it: pip install "{install}".',
            )
        arguments = logger.get("init_args") or Namespace()
        if arguments.get("save_dir") in (RUN_FOLDER, "."):
            arguments.save_dir = run_dir


def check_monitors(callbacks: list[Any], task: str) -> None:
    """Reject callbacks that monitor a metric that is never logged, which Lightning notices only after an epoch.

    Nothing is checked if any callback is not Lightning's own, because it may log the metric.

    Raises:
        ConfigError: If a callback monitors such a metric.
    """
    if any(not type(callback).__module__.startswith("lightning.") for callback in callbacks):
        return
    names = ("pearson", "ccc", "icc", "mae") if task == "ActionUnitTask" else ("accuracy", "macro_recall", "nll")
    known = ["train/loss", *(f"val/{name}" for name in names)]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in known and not monitor.startswith("val/predictions/"):
            raise ConfigError(
                f"{type(callback).__name__} monitors {monitor!r}, which is never logged",
                remedy=f"Set its `monitor` to one of {', '.join(known)}.",
            )


def _is_local(name: str) -> bool:
    """Return whether a model's name can only be a local path: names on the hub are ORGANIZATION/NAME or NAME."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1
