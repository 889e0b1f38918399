"""The commands fit, validate, test and predict: one LightningCLI."""

import ctypes
import logging
import re
import sys
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

# Importing the classes lets YAML name them without their modules.
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.files import written_whole
from explllm.data.datamodules import CaptionedImages, DrawnFaces, FolderFaces, ManifestFaces
from explllm.data.transforms import Augment
from explllm.training.callbacks.last_checkpoint import LastCheckpoint, last_checkpoint
from explllm.training.callbacks.live_accuracy import LiveAccuracy
from explllm.training.callbacks.run_folder import RunFolder
from explllm.training.task import ExpLLMTask

__all__ = [
    "Augment",
    "CaptionedImages",
    "DrawnFaces",
    "ExpLLMTask",
    "FolderFaces",
    "ManifestFaces",
    "find_config",
    "parse",
    "run_stage",
]


# Remarks of libraries that say nothing to the user: of their own internals, of other products, of choices made here.
_NOISE = (
    r"LightningCLI's args parameter",
    r".*isinstance\(treespec, LeafSpec\)",
    r".*For seamless cloud logging",
    r".*`weights_only` was not set",
    r".*does not have many workers",
    r"Loading `train_dataloader` to estimate",
    r".*module\(s\) in eval mode at the start of training",
    r"(GPU|TPU|HPU) available: False",
)


class SaveConfig(SaveConfigCallback):
    """Writes the configuration as resolved to ``config.yaml`` in the run folder, for ``fit`` only."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it whole."""
        if stage == "fit":
            with written_whole(Path(trainer.default_root_dir, "config.yaml")) as temporary:
                self.parser.save(self.config, temporary, skip_none=False, overwrite=True, multifile=False)


class ExpLLMCLI(LightningCLI):
    """LightningCLI with a run folder, live accuracy and a checkpoint to resume from."""

    def __init__(self, stage: str, **options: Any) -> None:
        """Run one stage; `options` are LightningCLI's."""
        self.stage = stage
        super().__init__(LightningModule, LightningDataModule, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Name the one stage: building the parsers of all four takes seconds."""
        return {self.stage: LightningCLI.subcommands()[self.stage]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run has besides trainer, model and data."""
        parser.add_argument(
            "--run_dir",
            type=str,
            default=None,
            help="The run folder: config, checkpoints, metrics, predictions, report and model. (default: runs/CONFIG)",
        )
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int, default=200, help="Optimiser steps between two checkpoints."
        )
        parser.add_argument(
            "--explained_faces", type=int, default=3, help="Faces that `test` explains on the screen and in the report."
        )
        parser.add_argument(
            "--live_accuracy_every_n_steps",
            type=int,
            default=50,
            help="Optimiser steps between two looks at the accuracy on training batches.",
        )

    def before_instantiate_classes(self) -> None:
        """Settle the run folder and the checkpoint to go on from."""
        config = self.config[self.subcommand]
        run_dir = config.run_dir or f"runs/{_stem(config)}"
        config.run_dir = config.trainer.default_root_dir = run_dir
        last = last_checkpoint(run_dir)
        if config.ckpt_path is None and self.subcommand != "fit" and not _init_from(config):
            config.ckpt_path = "last"
        if config.ckpt_path == "last":
            if not last.is_file():
                raise MissingPathError(
                    "the run has no checkpoint yet",
                    where=last,
                    remedy="Start without --ckpt_path last."
                    if self.subcommand == "fit"
                    else "Run `explllm fit` with the same arguments first, or give --ckpt_path or --run_dir.",
                )
            config.ckpt_path = str(last)
        elif config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise MissingPathError("there is no such checkpoint", where=config.ckpt_path, remedy="Check --ckpt_path.")
        # Checkpoints are plain tensors and numbers: nothing in them may run code.
        config.weights_only = True

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the run folder's callbacks and logger."""
        config = self.config[self.subcommand]
        callbacks = [
            LiveAccuracy(config.live_accuracy_every_n_steps),
            RunFolder(config.run_dir, config.explained_faces),
        ]
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            callbacks.append(LastCheckpoint(config.run_dir, config.checkpoint_every_n_steps))
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        trainer_config["callbacks"] = [*callbacks, *(trainer_config.get("callbacks") or [])]
        if trainer_config.get("logger") in (None, True):
            trainer_config["logger"] = CSVLogger(config.run_dir, name="logs") if self.subcommand == "fit" else False
        # Batches come sharded from our own sampler, and the checkpoint callback is ours.
        return self._instantiate_trainer({**trainer_config, "enable_checkpointing": self.subcommand == "fit"}, [])


class _ParseOnly(ExpLLMCLI):
    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def run_stage(stage: str, arguments: list[str]) -> None:
    """Run one of Lightning's stages.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: The command line after the stage's name.

    Raises:
        InputError: If the user made a mistake.
    """
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(re.match(message, record.getMessage()) for message in _NOISE)
    )
    torch.set_float32_matmul_precision("high")
    _keep_freed_memory()
    _start(ExpLLMCLI, stage, arguments)


def parse(stage: str, arguments: list[str]) -> Namespace:
    """Parse a command line and its configurations without building anything.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: The command line after the stage's name.

    Returns:
        The settings as resolved.

    Raises:
        InputError: If something is unknown or of a wrong type.
    """
    return _start(_ParseOnly, stage, arguments).config[stage]


def _start(kind: type[ExpLLMCLI], stage: str, arguments: list[str]) -> ExpLLMCLI:
    try:
        return kind(
            stage,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_defaults={"use_distributed_sampler": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10},
            seed_everything_default=42,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False},
            args=[stage, *_with_configs_found(arguments)],
        )
    except ArgumentError as error:
        raise ConfigError(_one_sentence(str(error)), remedy=f"See `explllm {stage} --help`.") from error


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the system after every step.

    Activations of a step are allocated and freed over and over; mapping them anew costs a CPU run about half its time.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc, not musl
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(option, value)


def find_config(name: str) -> Path:
    """Find a configuration: in the working folder, then in ``configs/``, then among those shipped with the package.

    Args:
        name: A file's name or path.

    Returns:
        Its path.

    Raises:
        MissingPathError: If it is in none of these places; the message names them and what there is.
    """
    shipped = shipped_configs()
    places = [Path(name), Path("configs", name), shipped / name]
    for place in places:
        if place.is_file():
            return place
    known = sorted(str(path.relative_to(shipped)) for path in shipped.rglob("*.yaml"))
    raise MissingPathError(
        f"there is no configuration {name}; looked for {', '.join(map(str, places))}",
        remedy=f"Give a path, or one of those shipped: {', '.join(known)}.",
    )


def shipped_configs() -> Path:
    """Return the folder of the configurations that come with the package."""
    package = Path(str(resources.files("explllm")))
    # In a wheel they lie inside the package; in a checkout beside it.
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _with_configs_found(arguments: list[str]) -> list[str]:
    found = list(arguments)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        if equals:
            found[place] = f"{option}={find_config(value)}"
        elif place + 1 < len(arguments):
            found[place + 1] = str(find_config(arguments[place + 1]))
    return found


def _stem(config: Any) -> str:
    files = [Path(str(file)).stem for file in config.get("config") or []]
    return files[-1] if files else "unnamed"


def _init_from(config: Any) -> Any:
    return config.get("model.init_args.init_from")


def _one_sentence(message: str) -> str:
    """Shorten jsonargparse's many-line messages to what is wrong and where."""
    lines = [re.sub(r"^\s*-\s*", "", line).strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:3]).rstrip(".")[:400]
