"""Configuration files: search path and inheritance."""

import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from explllm.commands.parser import suggestion
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.files import read_settings

BASE = "base"
"""Key of the configuration to inherit from."""


def find_config(name: str) -> Path:
    """Find a configuration by name or path: in the working folder, in ``configs/``, then in the package.

    Raises:
        MissingPathError: If it is in none of these places; the message lists them and the shipped configurations.
    """
    shipped = shipped_configs()
    candidates = list(dict.fromkeys([Path(name), Path("configs", name), shipped / name]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(str(path.relative_to(shipped)) for path in shipped.rglob("*.yaml"))
    raise MissingPathError(
        f"there is no configuration {name}; searched {', '.join(map(str, candidates))}",
        remedy=f"{suggestion(name, known, 0.8)}Pass a path, or a shipped configuration: {', '.join(known)}.",
    )


def shipped_configs() -> Path:
    """Return the folder of the configurations that come with the package."""
    package = Path(str(resources.files("explllm")))
    # A wheel contains the configurations; in a source checkout they are next to the package.
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def with_configs_found(arguments: Sequence[str]) -> list[str]:
    """Replace each configuration name in a command line with its path or, if it inherits, with its merged text.

    Raises:
        MissingPathError: If a configuration or one that it inherits from does not exist.
        ConfigError: If ``--config`` has no value or a configuration has an unknown empty section; also as for
            `read_config_file`.
    """
    resolved = list(arguments)
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if not value or value.startswith("-"):
            remedy = "Pass a configuration, such as --config demo.yaml."
            raise ConfigError(f"the option {option} has no value", remedy=remedy)
        path = find_config(value)
        settings = read_config_file(path)
        _check_sections(settings, path)
        # The parser does not support inheritance, but accepts the text of a configuration instead of a path.
        text = yaml.safe_dump(settings, sort_keys=False) if BASE in read_settings(path) else str(path)
        resolved[index if equals else index + 1] = f"{option}={text}" if equals else text
    return resolved


def _check_sections(settings: Mapping[str, Any], path: Path) -> None:
    """Reject unknown empty sections, which the parser would ignore."""
    for name, value in settings.items():
        if not value and isinstance(value, dict) and name not in _SECTIONS:
            raise ConfigError(
                f"unknown key {name}", where=path, remedy=f"{suggestion(name, _SECTIONS)}Correct or remove it."
            )


_SECTIONS = ("trainer", "model", "data")


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a configuration with everything it inherits.

    The key ``base`` names another configuration, relative to the file's own folder or found by `find_config`. The
    file's settings override the settings of the base; see `merge_settings`. The run folder is not inherited: for
    NAME.yaml, the default is ``runs/NAME``. The result does not contain ``base``.

    Raises:
        MissingPathError: If a base does not exist.
        ConfigError: If a file is not a YAML file of settings or inherits from itself, or if ``base`` is not a name;
            also as for `merge_settings`.
    """
    settings, files = read_settings(path), [path.resolve()]
    inherits = BASE in settings
    own_run_dir = settings.get("run_dir")
    while BASE in settings:
        name = settings.pop(BASE)
        if not isinstance(name, str):
            raise ConfigError(
                f"base is {name!r}, not the name of a configuration", where=path, remedy="Set a name or remove the key."
            )
        beside = files[-1].parent / name
        base = beside if beside.is_file() else find_config(name)
        if base.resolve() in files:
            raise ConfigError(
                f"the configuration inherits from itself through {name}", where=path, remedy="Remove one `base`."
            )
        files.append(base.resolve())
        settings = merge_settings(read_settings(base), settings, path)
    if inherits:
        settings["run_dir"] = own_run_dir or f"runs/{path.stem}"
    return settings


def merge_settings(base: Mapping[str, Any], own: Mapping[str, Any], where: str | Path = "") -> dict[str, Any]:
    """Merge settings key by key, recursively; the values of `own` override those of `base`.

    If ``class_path`` differs, the base's settings that the new class accepts are kept, and a note on stderr lists the
    others. With ``init_args: null``, none are kept. `where` is the file that contains `own`; messages name it.

    Raises:
        ConfigError: If the settings that a new class accepts cannot be determined.
    """
    merged = dict(base)
    for key, value in own.items():
        existing = merged.get(key)
        if isinstance(existing, Mapping) and isinstance(value, Mapping):
            changed = value.get("class_path", existing.get("class_path")) != existing.get("class_path")
            if changed and "class_path" in existing:
                if "init_args" in value and value["init_args"] is None:
                    existing, value = {}, {**value, "init_args": {}}
                else:
                    existing = _for_class(existing, str(value["class_path"]), key, where)
            merged[key] = merge_settings(existing, value, where)
        else:
            merged[key] = value
    return merged


def _for_class(settings: Mapping[str, Any], new: str, key: str, where: str | Path) -> dict[str, Any]:
    """Return the inherited settings with the new class and only the arguments that it accepts; print the others."""
    old, arguments = str(settings["class_path"]), settings.get("init_args") or {}
    # Deferred import: the signatures are needed only if the class changes.
    from explllm.commands.lightning_help import accepted_settings

    accepted = accepted_settings(new)
    if arguments and accepted is None:
        raise ConfigError(
            f"{key} changes from {old} to {new}, and it is unknown which of its inherited settings "
            f"({', '.join(arguments)}) {new} accepts",
            where=where,
            remedy="Write `init_args: null` to inherit none of them, and put new settings in a second configuration.",
        )
    dropped = [name for name in arguments if name not in (accepted or ())]
    if dropped:
        names = ", ".join(dropped)
        sys.stderr.write(
            f"note: {where}: {key} changes from {old} to {new}, which does not accept the inherited {names}\n"
        )
    return {"class_path": new, "init_args": {name: arguments[name] for name in arguments if name not in dropped}}
