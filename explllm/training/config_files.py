"""Configuration files: where they are looked for, and what is wrong with them before any setting is read."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml

from explllm.core.errors import ConfigError, MissingPathError


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
        _check(path)
        if equals:
            found[place] = f"{option}={path}"
        else:
            found[place + 1] = str(path)
    return found


def _check(path: Path) -> None:
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
