"""The interface of action unit estimators, and the registry that the commands read."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

from docstring_parser import parse
from PIL import Image

from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError

Intensities = list[float | None]
"""24 intensities in [0, 1], in FEAFA's order; None for a unit that the estimator does not measure."""


class Estimator(ABC):
    """Estimates action units from face images.

    A subclass sets `name`, implements `estimate`, and overrides the other attributes as needed. The first parameter of
    its constructor is the path of its file. The keyword-only parameters are its options: each one becomes an option of
    the commands that estimate action units, and the constructor's docstring provides its help text. ``provider`` and
    ``threads`` are passed if the constructor has them.
    """

    file_help: ClassVar[str] = "A file of this estimator."
    """Help text of the option ``--NAME FILE``."""

    name: str
    """Value of the manifest column ``action_units_source``."""
    runs_on: Sequence[str] = ()
    """Lines about the device that the estimator uses, including warnings."""
    no_result: str = "no face found"
    """The reason to report for a face if `estimate` returns None."""
    batch_size: int = 1
    """Number of faces per call of `estimate`."""
    margin: float | None = None
    """Margin around face boxes that the estimator was trained with, as for `face_crop`; None if unknown."""
    training_data_note: str | None = None
    """A note about the training data, for example that the faces were drawn."""

    @abstractmethod
    def estimate(self, images: Sequence[Image.Image]) -> list[Intensities | None]:
        """Estimate the action units of faces.

        Args:
            images: RGB images of one face each.

        Returns:
            24 intensities per image; None for an image without a result (`no_result`).
        """

    def close(self) -> None:  # noqa: B027  (optional)
        """Release the estimator's resources. It cannot be used afterwards."""


ESTIMATORS: dict[str, type[Estimator]] = {}
"""Registered estimator classes by name."""

_Class = TypeVar("_Class", bound=type[Estimator])
_RUNTIME = ("provider", "threads")


def register_estimator(name: str) -> Callable[[_Class], _Class]:
    """Return a decorator that registers an estimator class.

    Args:
        name: The name in the command-line option ``--NAME FILE``; it must be a Python identifier.

    Raises:
        ConfigError: If another class has this name.
    """

    def register(cls: _Class) -> _Class:
        existing = ESTIMATORS.get(name)
        if existing is not None and existing.__qualname__ != cls.__qualname__:
            raise ConfigError(
                f"two action unit estimators named {name!r}: {existing.__qualname__} and {cls.__qualname__}",
                remedy="Register the second one under another name.",
            )
        ESTIMATORS[name] = cls
        return cls

    return register


@dataclass(frozen=True)
class EstimatorSpec:
    """A registered estimator with its file and options. It can be sent to worker processes."""

    name: str
    """The registered name."""
    path: Path
    """The estimator's file."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of its constructor; None stands for the default."""

    def open(self, **runtime: Any) -> Estimator:
        """Open the estimator; ``runtime`` contains further options of `open_estimator`."""
        return open_estimator(self.name, self.path, **self.options, **runtime)


def open_estimator(name: str, path: str | PathLike[str], **options: Any) -> Estimator:
    """Open a registered estimator.

    Args:
        name: A name in `ESTIMATORS`.
        path: The estimator's file.
        **options: Keyword arguments of its constructor. ``provider`` and ``threads`` are ignored by estimators that do
            not have them.

    Returns:
        The estimator.

    Raises:
        ConfigError: If there is no such estimator, or it has no such option.
        InputError: If its file cannot be used.
    """
    if name not in ESTIMATORS:
        raise ConfigError(f"unknown action unit estimator {name!r}", remedy=f"Use one of {', '.join(ESTIMATORS)}.")
    known = _options_of(ESTIMATORS[name], include_runtime=True)
    options = {
        key: value for key, value in options.items() if value is not None and (key in known or key not in _RUNTIME)
    }
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(f"--{unknown[0]} does not apply to --{name}", remedy=f"Omit --{unknown[0]}.")
    opener: Any = ESTIMATORS[name]
    return opener(path, **options)


def estimator_options() -> type:
    """Return a dataclass of the command-line options of all registered estimators.

    The dataclass has a field ``NAME: Path | None`` per estimator and a field for each of their options; all default to
    None. A command whose parameter has this type takes these options; `selected_estimator` reads them.
    """
    helps: dict[str, str] = {name: cls.file_help for name, cls in ESTIMATORS.items()}
    types: dict[str, Any] = {name: Path | None for name in ESTIMATORS}
    for cls in ESTIMATORS.values():
        for name, (annotation, description) in _options_of(cls).items():
            types.setdefault(name, annotation)
            helps.setdefault(name, description)
    lines = [f"    {name}: {' '.join(text.split())}" for name, text in helps.items()]
    return make_dataclass(
        "EstimatorOptions",
        [(name, kind, field(default=None)) for name, kind in types.items()],
        frozen=True,
        namespace={"__doc__": "\n".join(["Estimator of action units and its options.", "", "Attributes:", *lines])},
    )


def selected_estimator(options: Any, required: bool = False) -> EstimatorSpec | None:
    """Return the estimator that the command-line options select.

    Args:
        options: An instance of the dataclass that `estimator_options` returns.
        required: Whether an estimator must be selected.

    Returns:
        The estimator; None if the user gave no file.

    Raises:
        ConfigError: If the user gave more than one file, or gave no file although an estimator is required or an option
            of an estimator is given.
    """
    values = {item.name: getattr(options, item.name) for item in fields(options)}
    selected = [name for name in ESTIMATORS if values.get(name) is not None]
    flags = [f"--{name}" for name in ESTIMATORS]
    if len(selected) > 1:
        raise ConfigError(f"both --{selected[0]} and --{selected[1]} are given", remedy="Pass one of them.")
    extra = {name: value for name, value in values.items() if name not in ESTIMATORS and value is not None}
    if not selected:
        if required or extra:
            raise ConfigError(f"none of {', '.join(flags)} is given", remedy="Pass one of them, with its file.")
        return None
    return EstimatorSpec(selected[0], values[selected[0]], extra)


def unmeasured_units(intensities: Intensities) -> list[str]:
    """Return the names of the units that were not measured."""
    return [name for name, value in zip(NAMES, intensities, strict=True) if value is None]


def fill_unmeasured(intensities: Intensities) -> list[float]:
    """Return intensities as the manifest stores them, with 0 for unmeasured units."""
    return [0.0 if value is None else value for value in intensities]


def _options_of(cls: type[Estimator], include_runtime: bool = False) -> dict[str, tuple[Any, str]]:
    """Return the type and description of each option of an estimator class."""
    # A type checker sees only the constructor of the base class.
    constructor: Any = cls.__init__
    hints = get_type_hints(constructor)
    described = {item.arg_name: item.description or "" for item in parse(inspect.getdoc(constructor) or "").params}
    return {
        name: (hints.get(name, str) | None, described.get(name, ""))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and (include_runtime or name not in _RUNTIME)
    }
