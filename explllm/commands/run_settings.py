"""Settings of a recorded run: evaluation takes the model from the run folder, not from the command line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from explllm.commands.config_files import find_config, merge_settings, read_config_file
from explllm.core.errors import ConfigError, MissingPathError

CONFIG_FILE = "config.yaml"
_CHANGEABLE = ("explain_predictions", "max_new_tokens", "explanation_batch_size")
"""Settings of the task that are not part of the model."""


@dataclass(frozen=True)
class RecordedRun:
    """The settings that a run was trained with."""

    file: Path
    """The ``config.yaml`` of the run folder."""
    settings: Mapping[str, Any]
    """The content of this file."""

    def check(self, settings: Mapping[str, Any], overridden: Collection[str] = ()) -> None:
        """Check that the model and the margin in `settings` are those of the run, except for `overridden` options.

        Raises:
            ConfigError: If a setting differs; the message names both values.
        """
        known, defaults = dict(_model_settings(self.settings)), _network_defaults(self.settings)
        for key, value in _model_settings(settings):
            # Runs of earlier versions lack settings that were added later; for these, the defaults apply.
            recorded = known.get(key, defaults.get(key))
            replaced = any(f"{key}.".startswith(f"{option}.") or option.startswith(f"{key}.") for option in overridden)
            if value != recorded and not replaced:
                raise ConfigError(
                    f"--{key} is {_shown(value)}, but the run was trained with {_shown(recorded)}",
                    where=self.file,
                    remedy=f"Omit --{key}: evaluation takes the model from the run folder; "
                    f"`--run_dir {self.file.parent}` alone is enough.",
                )


def evaluation_arguments(arguments: Sequence[str]) -> tuple[list[str], RecordedRun | None]:
    """Merge the settings of a recorded run with those of a command line.

    The run is the one that ``--ckpt_path`` belongs to, otherwise the one in the run folder. Its data and trainer may be
    changed, but not its model.

    Args:
        arguments: The command line of ``validate``, ``test`` or ``predict``.

    Returns:
        The new command line and the run, or the unchanged command line and None if no run is recorded.

    Raises:
        ConfigError: If a configuration specifies a model other than the run's.
        MissingPathError: If a configuration or the checkpoint does not exist, or if no configuration is given and the
            run folder does not contain one.
    """
    names = list(_values(arguments, "--config"))
    files = [find_config(name) for name in names]
    typed: dict[str, Any] = reduce(merge_settings, map(read_config_file, files), {})
    run_dir = _last(arguments, "--run_dir") or typed.get("run_dir") or _last(arguments, "--trainer.default_root_dir")
    if run_dir is None and files:
        run_dir = f"runs/{files[-1].stem}"
    checkpoint = _last(arguments, "--ckpt_path") or typed.get("ckpt_path")
    folder = Path(run_dir) if run_dir else None
    if checkpoint not in (None, "last", "best"):
        if not Path(checkpoint).is_file():
            raise MissingPathError("the checkpoint does not exist", where=checkpoint, remedy="Check --ckpt_path.")
        folder = Path(checkpoint).parent.parent
    if folder is None:
        return list(arguments), None
    file = folder / CONFIG_FILE
    if not file.is_file():
        if files:
            return list(arguments), None
        raise MissingPathError(
            "the run does not exist" if not folder.is_dir() else f"the run folder has no {CONFIG_FILE}",
            where=folder,
            remedy="Check --run_dir: give a folder that `explllm fit` wrote, or a configuration with --config.",
        )
    run = RecordedRun(file, read_config_file(file))
    options = {word.partition("=")[0][2:] for word in arguments if word.startswith("--")}
    run.check(typed, overridden=options)
    settings = {key: value for key, value in run.settings.items() if key not in ("config", "ckpt_path")}
    changes = {key: value for key, value in typed.items() if key != "model"}
    task = typed.get("model", {}).get("init_args", {})
    changes["model"] = {"init_args": {key: value for key, value in task.items() if key in _CHANGEABLE}}
    if _class_name(typed, "data") not in (None, _class_name(settings, "data")):
        # Another data class has its own settings, but faces are cropped as in training.
        recorded = settings["data"].get("init_args") or {}
        margin = {key: value for key, value in recorded.items() if key == "margin"}
        settings = {**settings, "data": {"class_path": typed["data"]["class_path"], "init_args": margin}}
    merged = merge_settings(settings, changes)
    merged["run_dir"] = str(run_dir)
    rest = [word for index, word in enumerate(arguments) if not _is_config(arguments, index)]
    return ["--config", yaml.safe_dump(merged, sort_keys=False), *rest], run


def _model_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of the model by option: class, network, and the margin around faces."""
    model, data = settings.get("model") or {}, settings.get("data") or {}
    if "class_path" in model:
        yield "model", str(model["class_path"]).rpartition(".")[2]
    yield from _flattened("model.network", (model.get("init_args") or {}).get("network") or {})
    if "margin" in (data.get("init_args") or {}):
        yield "data.margin", data["init_args"]["margin"]


def _network_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's default settings by option, with values as in a configuration file."""
    from explllm.models.au_regressor import RegressorSettings
    from explllm.models.build import NetworkSettings

    regressor = _class_name(settings, "model") == "ActionUnitTask"
    defaults = asdict(RegressorSettings() if regressor else NetworkSettings())
    return dict(_flattened("model.network", yaml.safe_load(json.dumps(defaults))))


def _flattened(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key == "class_path":
            continue
        if isinstance(value, Mapping) and key not in ("vision", "language"):
            yield from _flattened(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def _class_name(settings: Mapping[str, Any], key: str) -> str | None:
    path = (settings.get(key) or {}).get("class_path")
    return None if path is None else str(path).rpartition(".")[2]


def _values(arguments: Sequence[str], option: str) -> Iterator[str]:
    for index, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == option:
            yield value if equals else arguments[index + 1] if index + 1 < len(arguments) else ""


def _last(arguments: Sequence[str], option: str) -> str | None:
    return next(iter(reversed(list(_values(arguments, option)))), None)


def _is_config(arguments: Sequence[str], index: int) -> bool:
    return arguments[index].partition("=")[0] == "--config" or (index > 0 and arguments[index - 1] == "--config")


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
