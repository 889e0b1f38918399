"""Configuration files: where they are looked for, what they inherit, and what is wrong with them as files."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from explllm.core.errors import ConfigError, MissingPathError

BASE = "base"
"""The key by which a configuration names the one that it builds upon."""


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
    places = list(dict.fromkeys([Path(name), Path("configs", name), shipped / name]))
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


def with_configs_found(arguments: Sequence[str]) -> list[str]:
    """Replace the names of configurations in a command line by their paths.

    Args:
        arguments: The command line after the command's name.

    Returns:
        The new command line.

    Raises:
        MissingPathError: If there is no such configuration.
        ConfigError: If it is no YAML file of settings, or ``--config`` has no value.
    """
    found = list(arguments)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        if not equals:
            value = arguments[place + 1] if place + 1 < len(arguments) else ""
        if not value or value.startswith("-"):
            raise ConfigError(
                f"the option {option} has no value", remedy="Give a configuration, such as --config demo.yaml."
            )
        path = find_config(value)
        settings = read_config_file(path)
        # The parser knows no inheritance; it takes the text of a configuration as well as a path.
        text = yaml.safe_dump(settings, sort_keys=False) if BASE in _read(path) else str(path)
        if equals:
            found[place] = f"{option}={text}"
        else:
            found[place + 1] = text
    return found


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a configuration with all that it inherits.

    The key ``base`` names another configuration, relative to the file's own folder or as `find_config` finds it; the
    file states what differs. A mapping is merged key by key, unless its ``class_path`` differs; anything else replaces
    what the base has. A run folder is not inherited: without one of its own, that of NAME.yaml is ``runs/NAME``.

    Args:
        path: The file.

    Returns:
        The settings, without ``base``.

    Raises:
        MissingPathError: If a base does not exist.
        ConfigError: If a file is no YAML file of settings, or its bases run in a circle.
    """
    settings, seen = _read(path), [path.resolve()]
    inherits = BASE in settings
    own_run_dir = settings.get("run_dir")
    while BASE in settings:
        name = settings.pop(BASE)
        if not isinstance(name, str):
            raise ConfigError(
                f"base is {name!r}, not the name of a configuration", where=path, remedy="Name one, or take it out."
            )
        beside = seen[-1].parent / name
        base = beside if beside.is_file() else find_config(name)
        if base.resolve() in seen:
            raise ConfigError(
                f"the configuration inherits from itself by {name}", where=path, remedy="Break the circle."
            )
        seen.append(base.resolve())
        settings = _merged(_read(base), settings)
    if inherits:
        settings["run_dir"] = own_run_dir or f"runs/{path.stem}"
    return settings


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        held = merged.get(key)
        if isinstance(held, dict) and isinstance(value, dict):
            other_class = value.get("class_path", held.get("class_path")) != held.get("class_path")
            merged[key] = value if other_class else _merged(held, value)
        else:
            merged[key] = value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"no YAML: {error.problem}", where=f"{path}{line}", remedy="Correct the file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"no YAML: {error}", where=path, remedy="Correct the file.") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            "the file holds no settings",
            where=path,
            remedy="Write them as `name: value`; see the shipped configurations.",
        )
    return settings
