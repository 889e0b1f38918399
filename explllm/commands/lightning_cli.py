"""The commands fit, validate, test and predict, which share one LightningCLI."""

import atexit
import inspect
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from rich import get_console

from explllm.commands.checks import (
    LOGGER_PACKAGES,
    RUN_FOLDER,
    check_loggers,
    check_model_paths,
    check_monitors,
    check_trainer,
)
from explllm.commands.config_files import find_config, shipped_configs, with_configs_found
from explllm.commands.lightning_help import AUGMENTATIONS, DATA, MODELS
from explllm.commands.parser import check_words
from explllm.commands.parser_errors import input_error, one_sentence
from explllm.commands.run_settings import RecordedRun, evaluation_arguments
from explllm.core.errors import ConfigError, InputError, MissingPathError
from explllm.core.files import PREDICT_FOLDER, PREDICTIONS_FILE, atomic_write
from explllm.core.manifest_files import SUFFIXES

# Importing the classes lets YAML files name them without their modules.
from explllm.data.au_faces import ActionUnitData, DrawnActionUnits, ManifestActionUnits
from explllm.data.datamodules import CaptionedImages, DrawnFaces, FolderFaces, ManifestFaces
from explllm.data.transforms import Augment, ReleasedAugment
from explllm.metrics.answers import UnknownLabels
from explllm.models.configuration import read_config
from explllm.training.au_task import ActionUnitTask
from explllm.training.callbacks.async_judge import AsyncJudge
from explllm.training.callbacks.au_run_folder import ActionUnitRunFolder
from explllm.training.callbacks.gallery import Gallery
from explllm.training.callbacks.live_accuracy import LiveAccuracy, TrainingProgressBar
from explllm.training.callbacks.rank_failure import RankFailure
from explllm.training.callbacks.run_folder import SCORED_FACES, RunFolder
from explllm.training.callbacks.temperature_scaling import TemperatureScaling
from explllm.training.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    best_checkpoint,
    last_checkpoint,
)
from explllm.training.strategies import check_limits, is_rank_failure, is_slow_in_bfloat16
from explllm.training.task import ExpLLMTask

__all__ = [
    "ActionUnitTask",
    "AsyncJudge",
    "Augment",
    "CaptionedImages",
    "DrawnActionUnits",
    "DrawnFaces",
    "ExpLLMTask",
    "FolderFaces",
    "Gallery",
    "ManifestActionUnits",
    "ManifestFaces",
    "ReleasedAugment",
    "find_config",
    "parse",
    "run_stage",
    "shipped_configs",
]


# Library messages to hide, because they are about internals, other products, or deliberate choices of this project.
_NOISE = (
    r"LightningCLI's args parameter",
    r".*isinstance\(treespec, LeafSpec\)",
    r".*For seamless cloud logging",
    r".*`weights_only` was not set",
    r".*does not have many workers",
    r"Loading `train_dataloader` to estimate",
    r".*module\(s\) in eval mode at the start of training",
    r"(GPU|TPU|HPU) available: False",
    r"\s*Detected KeyboardInterrupt",
    r"(\[rank: \d+\] )?Seed set to",
    r".*It is recommended to use `self\.log\(.*, sync_dist=True\)`",
    r"You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not resumable",
    r"Restoring states from the checkpoint",
    r"(Restored all states|Loaded model weights) from the checkpoint",
    r"`Trainer\.fit` stopped: `max_(epochs|steps)=",
    r"Using bfloat16 Automatic Mixed Precision",
)
_NOISY_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
_CLASSES = {
    "data": sorted(DATA),
    "model": sorted(MODELS),
    "augment": AUGMENTATIONS,
    "callbacks": ("AsyncJudge", "EarlyStopping", "Gallery", "LearningRateMonitor"),
    "logger": ("CSVLogger", *LOGGER_PACKAGES),
}


@dataclass
class RunOptions:
    """Options of a run besides trainer, model and data."""

    run_dir: str | None = None
    """The run folder: config, checkpoints, metrics, predictions, report and model. (default: runs/CONFIG)"""
    checkpoint_every_n_steps: PositiveInt = 200
    """Write a checkpoint every N optimizer steps, and at the end of each epoch."""
    explained_faces: NonNegativeInt = 3
    """Number of faces that `test` explains in the terminal and in the report; if 0, explanations are not scored
    either."""
    scored_faces: PositiveInt = SCORED_FACES
    """Number of faces whose explanations `test` scores. The sample is fixed; a larger one gives narrower intervals but
    takes longer."""
    predictions: str | None = None
    """The .parquet, .csv or .jsonl file that `test` and `predict` write. (default: in the run folder)"""
    answer_labels: str | None = None
    """The label set of the test faces, such as affectnet7: only its expressions are possible answers, and the
    probability of the model's other expressions is divided among them. (default: every expression of the model)"""
    unknown_labels: UnknownLabels = "refuse"
    """What to do with test faces whose expression is not a possible answer: refuse to run, or leave them out and count
    them."""
    live_accuracy_every_n_steps: PositiveInt = 50
    """Report the accuracy on training batches every N optimizer steps."""


_SAVE_DIR = "--trainer.logger.init_args.save_dir"


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to ``config.yaml`` in the run folder and to the loggers, for ``fit`` only."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file atomically, without the checkpoint that the run was resumed from, and log the settings."""
        if stage == "fit":
            config = self.config.clone()
            config.ckpt_path = None
            # The parser has checked these settings already.
            text = self.parser.dump(config, skip_none=False, skip_validation=True)
            with atomic_write(Path(trainer.default_root_dir, "config.yaml")) as temporary:
                temporary.write_text(text, encoding="utf-8")
            settings = yaml.safe_load(text)
            for logger in trainer.loggers:
                logger.log_hyperparams(settings)


class ExpLLMCLI(LightningCLI):
    """LightningCLI with a run folder, live accuracy and a checkpoint to resume from."""

    def __init__(self, stage: str, recorded: RecordedRun | None = None, **options: Any) -> None:
        """Run one stage.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
            recorded: The run to evaluate, whose model must not be changed; None to check nothing.
            **options: Passed to LightningCLI.
        """
        self.stage, self.recorded = stage, recorded
        super().__init__(LightningModule, LightningDataModule, **options)

    def subcommands(self) -> dict[str, set[str]]:
        """Return only this stage, because building the parsers of all four would take seconds."""
        return {self.stage: LightningCLI.subcommands()[self.stage]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run besides trainer, model and data."""
        parser.add_class_arguments(RunOptions, None, instantiate=False)

    def _set_seed(self) -> None:
        """Seed everything; reject seeds out of range, for which Lightning would raise NumPy's error."""
        seed = self.config[self.stage].get("seed_everything")
        if type(seed) is int and not 0 <= seed < 2**32:
            raise ConfigError(f"--seed_everything is {seed}", remedy="Use 0 to 4294967295.")
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Check the settings, and set the run folder and the checkpoint to resume from or to evaluate.

        Raises:
            InputError: If a setting is invalid, or a file or folder does not exist.
        """
        config = self.config[self.stage]
        if self.recorded is not None:
            text = self._parser(self.stage).dump(config, skip_none=False, skip_validation=True)
            self.recorded.check(yaml.safe_load(text))
        check_trainer(config.trainer, self.stage == "fit")
        config.run_dir = config.run_dir or config.trainer.default_root_dir or f"runs/{_stem(config)}"
        config.ckpt_path = self._checkpoint(config)
        # A checkpoint has all the weights; the model that its run started from may no longer exist.
        check_model_paths(config.model, self.stage == "fit" and config.ckpt_path is None)
        check_loggers(_listed(config.trainer.logger), config.run_dir)
        config.trainer.default_root_dir = config.run_dir
        if config.predictions and Path(config.predictions).suffix.lower() not in SUFFIXES:
            raise ConfigError(
                f"--predictions is {config.predictions}", remedy=f"Use one of the extensions {', '.join(SUFFIXES)}."
            )
        # Checkpoints contain only tensors and numbers, so loading one must not execute code.
        config.weights_only = True
        if self.stage == "predict":
            # The run folder's callback writes the results; Lightning would also keep those of every batch in memory.
            config.return_predictions = False
            # Do not overwrite the table that `test` wrote: `score` and `compare` read it.
            config.predictions = config.predictions or str(Path(config.run_dir, PREDICT_FOLDER, PREDICTIONS_FILE))

    def _checkpoint(self, config: Namespace) -> str | None:
        """Return the checkpoint to load, or None.

        By default, `fit` loads none, and the other stages load the best one, or the last one if there is no best one.
        If there is no last one and `init_from` is set, they evaluate the model of `init_from`.

        Raises:
            MissingPathError: If the checkpoint does not exist.
        """
        path, last, best = config.ckpt_path, last_checkpoint(config.run_dir), best_checkpoint(config.run_dir)
        if path is None and self.stage != "fit" and (last.is_file() or not config.get("model.init_args.init_from")):
            path = str(best) if best.is_file() else "last"
        if path == "best":
            path = best
        if path == "last":
            if last.is_file():
                return str(last)
            remedy = (
                "Start without --ckpt_path last."
                if self.stage == "fit"
                else "Run `explllm fit` with the same arguments first, or give --ckpt_path or --run_dir."
            )
            raise MissingPathError("the run has no checkpoint yet", where=last, remedy=remedy)
        if path is not None and not Path(path).is_file():
            raise MissingPathError("the checkpoint does not exist", where=path, remedy="Check --ckpt_path.")
        return str(path) if path else None

    def instantiate_classes(self) -> None:
        """Build the model, the data module and the trainer.

        Raises:
            InputError: If a constructor rejects its arguments.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            # The parser wraps a constructor's error in a multi-line error of its own.
            raise input_error(error, self.stage, (), _CLASSES) from error
        checkpoint = self.config[self.stage].ckpt_path
        if not isinstance(self.model, ExpLLMTask):
            return
        if checkpoint is not None:
            self.model.use_metadata_of(checkpoint)
        elif self.model.init_from is not None:
            read_config(Path(self.model.init_from))  # report a missing model before the data is prepared

    def _parse_ckpt_path(self) -> None:
        """Do not read settings from the checkpoint, which has none; reading a large file twice would be slow."""

    def _dump_config(self) -> None:
        """Skip the slow dump for `save_hyperparameters`, unless a user-defined class may call that method."""
        config = self.config[self.stage]
        if all(str(part.class_path).startswith("explllm.") for part in (config.model, config.data) if part is not None):
            self.config_dump: dict[str, Any] = {}
        else:
            super()._dump_config()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the trainer with the run folder's callbacks and logger.

        Raises:
            ConfigError: If model and data do not match, or a setting of the trainer or of a callback is invalid.
        """
        config, fitting = self.config[self.stage], self.stage == "fit"
        options = {**self._get(self.config_init, "trainer", default={}), **kwargs}  # pyrefly: ignore[bad-argument-type]
        if options["precision"] in ("bf16", "bf16-mixed") and is_slow_in_bfloat16(options["accelerator"]):
            options["precision"] = "32-true"
            note = "Note: using 32-true instead of bf16-mixed, because this processor has no bfloat16 instructions."
            rank_zero_only(get_console().print)(note, soft_wrap=True)
        configured = _listed(options.get("callbacks"))
        check_monitors(configured, type(self.model).__name__)
        callbacks = [RankFailure(), *self._run_folder(config)]
        if fitting and not options["fast_dev_run"]:
            monitor = "val/pearson" if isinstance(self.model, ActionUnitTask) else "val/macro_recall"
            callbacks.append(LastCheckpoint(config.run_dir, config.checkpoint_every_n_steps))
            callbacks.append(BestCheckpoint(config.run_dir, monitor))
        shows_progress = options["enable_progress_bar"] is not False and not options["barebones"]
        if shows_progress and not any(isinstance(callback, ProgressBar) for callback in configured):
            callbacks.append(TrainingProgressBar())
        options["callbacks"] = [*callbacks, *configured]
        options["plugins"] = [AtomicCheckpointIO(), *_listed(options.get("plugins"))]
        # If checkpointing is off, Lightning rejects a ModelCheckpoint among the callbacks, even in evaluation.
        saves = any(isinstance(callback, Checkpoint) for callback in options["callbacks"])
        options["enable_checkpointing"] = saves and not options["fast_dev_run"]
        if options["logger"] in (None, True):
            options["logger"] = CSVLogger(config.run_dir, name="logs") if fitting else False
        try:
            trainer = self._instantiate_trainer(options, [])
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise ConfigError(
                f"the trainer's settings are invalid: {one_sentence(error)}",
                remedy=f"See `explllm {self.stage} --trainer.help`.",
            ) from error
        if fitting:
            check_limits(trainer)  # the task repeats this, but only after config.yaml has been written
        return trainer

    def _run_folder(self, config: Namespace) -> list[Callback]:
        """Return the callbacks for this kind of model, including the one that writes the run folder.

        Raises:
            ConfigError: If model and data do not match.
        """
        regression, units = isinstance(self.model, ActionUnitTask), isinstance(self.datamodule, ActionUnitData)
        if regression != units:
            raise ConfigError(
                f"{type(self.model).__name__} cannot use {type(self.datamodule).__name__}",
                remedy="Use ManifestActionUnits or DrawnActionUnits with ActionUnitTask, other data with ExpLLMTask.",
            )
        if regression:
            return [ActionUnitRunFolder(config.run_dir, config.predictions, config.ckpt_path)]
        names = ("run_dir", "explained_faces", "scored_faces", "predictions", "answer_labels", "unknown_labels")
        folder = RunFolder(**{name: config[name] for name in names}, checkpoint=config.ckpt_path)
        return [LiveAccuracy(config.live_accuracy_every_n_steps), TemperatureScaling(), folder]


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
        InputError: If the user made an error.
    """
    check_words(arguments)
    torch.set_float32_matmul_precision("high")
    with _interruptions():
        try:
            _start(ExpLLMCLI, stage, arguments)
        except MisconfigurationException as error:
            # A settings error that Lightning detects only now, such as resuming a run with fewer epochs.
            raise ConfigError(one_sentence(error), remedy=f"See `explllm {stage} --trainer.help`.") from error


@contextmanager
def _interruptions() -> Iterator[None]:
    """Exit with the usual status after SIGINT or SIGTERM; raise an `InputError` if memory runs out or a rank fails.

    After an interruption, Lightning itself would exit as if the run had failed or succeeded.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as stop:
        sys.stderr.write(" ".join(["terminated.", *getattr(stop, "__notes__", [])]) + "\n")
        raise SystemExit(128 + signal.SIGTERM) from None
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"out of memory: {one_sentence(error)}",
            remedy="Reduce data.micro_batch_size or data.eval_batch_size; `explllm describe` estimates the memory.",
        ) from error
    except RuntimeError as error:
        if not is_rank_failure(error):
            raise
        hint = " ".join(getattr(error, "__notes__", []))
        atexit.register(_exit_without_cleanup)
        raise InputError("another process of the run exited", remedy=f"See its message. {hint}".rstrip()) from error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)


def _exit_without_cleanup() -> None:
    """Exit with the status of a user error. The threads of a broken process group can abort Python's own cleanup."""
    sys.stdout.flush()
    os._exit(2)


def parse(stage: str, arguments: list[str]) -> Namespace:
    """Parse a stage's command line and configurations and return the resolved settings; nothing is built.

    Raises:
        InputError: If an option is unknown or its value has the wrong type.
    """
    return _start(_ParseOnly, stage, arguments).config[stage]


def _start(kind: type[ExpLLMCLI], stage: str, arguments: list[str]) -> ExpLLMCLI:
    words, recorded = (arguments, None) if stage == "fit" else evaluation_arguments(arguments)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not re.match("|".join(_NOISE), record.getMessage()))
    try:
        return kind(
            stage,
            recorded,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_defaults={
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
                "enable_model_summary": False,
            },
            seed_everything_default=42,
            auto_configure_optimizers=False,
            # Otherwise, a shortened name such as --trainer.max_epoch would be silently accepted.
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            args=[stage, *(with_configs_found(words) if recorded is None else words)],
        )
    except ArgumentError as error:
        if "required: save_dir" in str(error) and _SAVE_DIR not in arguments:
            # A logger without a folder writes to the run folder, which is not known yet.
            return _start(kind, stage, [*arguments, _SAVE_DIR, RUN_FOLDER])
        raise input_error(error, stage, arguments, _CLASSES, _options()) from error


def _options() -> list[str]:
    """Return the options of a run and of the trainer, for suggestions."""
    run = (field.name for field in fields(RunOptions))
    return [*run, *(f"trainer.{name}" for name in inspect.signature(Trainer).parameters), "ckpt_path", "config"]


def _stem(config: Namespace) -> str:
    files = [Path(str(file)).stem for file in config.get("config") or []]
    return files[-1] if files else "unnamed"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
