"""Help of ``fit``, ``validate``, ``test`` and ``predict``, generated from the source files.

Importing torch and Lightning takes seconds, so the settings are collected from the syntax trees of the classes:
signatures, dataclass fields and their docstrings.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from docstring_parser import parse

from explllm.commands.parser import WIDTH, for_terminal, suggestion
from explllm.core.errors import ConfigError

MODELS = ("ExpLLMTask", "ActionUnitTask")
DATA = ("DrawnFaces", "FolderFaces", "ManifestFaces", "CaptionedImages", "DrawnActionUnits", "ManifestActionUnits")
CALLBACKS = ("Gallery", "AsyncJudge")
AUGMENTATIONS = ("Augment", "ReleasedAugment")

_RUN = (
    ("--config FILE", "A configuration, shipped or your own. Later files and options override earlier ones."),
    (
        "--ckpt_path PATH",
        "A checkpoint to resume from or to evaluate: a path, best or last. Evaluation uses the best one by default.",
    ),
    ("--seed_everything N", "Seed of all random number generators. (default: 42)"),
)
_TRAINER = (
    ("--trainer.max_epochs N", "Number of training epochs."),
    ("--trainer.max_steps N", "Maximum number of optimizer steps."),
    ("--trainer.accelerator TEXT", "cpu, gpu, mps or auto. (default: auto)"),
    ("--trainer.devices N", "Number of devices. (default: auto)"),
    ("--trainer.strategy TEXT", "ddp or fsdp2 for several devices. (default: auto)"),
    ("--trainer.precision TEXT", "32-true, bf16-mixed or 16-mixed."),
    ("--trainer.gradient_clip_val X", "Maximum norm of the gradient."),
    ("--trainer.callbacks CLASS", "Additional callbacks, such as those above."),
    ("--trainer.logger CLASS", "A logger, such as TensorBoardLogger or WandbLogger. (default: CSVLogger)"),
)


@dataclass(frozen=True)
class Setting:
    """One setting of a class."""

    name: str
    annotation: str
    default: str | None
    """As written in the source; None if the setting is required."""
    help: str


def stage_help(stage: str, function: Callable[..., Any]) -> str:
    """Return the help of a stage: the options of the run, model, data, callbacks and trainer.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        function: The command; its docstring is the description.

    Returns:
        A text of at most `WIDTH` columns.
    """
    lines = [f"usage: explllm {stage} --config FILE [options]", "", for_terminal(inspect.getdoc(function) or "")]
    lines += ["run options:", *(line for option, text in _RUN for line in _entry(option, text))]
    lines += _entries("", settings_of("RunOptions"))
    lines += ["", "model (--model CLASS):", *_classes(MODELS), "", "options of the model ExpLLMTask:"]
    lines += _entries("model.", settings_of("ExpLLMTask"))
    lines += ["", "data (--data CLASS):", *_classes(DATA), "", "options of the data of an ExpLLMTask:"]
    lines += _entries("data.", settings_of("FaceDataModule"))
    lines += ["", "augmentations (--data.augment CLASS):", *_classes(AUGMENTATIONS)]
    lines += ["", "callbacks (--trainer.callbacks CLASS):", *_classes(CALLBACKS)]
    lines += ["", "trainer (the most common options of Lightning's Trainer):"]
    lines += [line for option, text in _TRAINER for line in _entry(option, text)]
    lines += [
        "",
        "more help:",
        *_entry(f"explllm {stage} --data.help FolderFaces", "All options of a data class."),
        *_entry(f"explllm {stage} --model.help ActionUnitTask", "All options of a model class."),
        *_entry(f"explllm {stage} --trainer.help", "All options, including those of Lightning's Trainer."),
        *_entry("explllm describe --config FILE", "What a configuration means: weights, steps, memory."),
    ]
    return "\n".join(lines) + "\n"


def class_help(group: str, name: str) -> str:
    """Return the help of a class, or the list of classes if none is named.

    Args:
        group: ``model`` or ``data``.
        name: One of explllm's classes; may be empty.

    Returns:
        A text of at most `WIDTH` columns.

    Raises:
        ConfigError: If there is no such class.
    """
    known = {"model": MODELS, "data": DATA}[group]
    if not name:
        return "\n".join([f"classes for --{group}:", *_classes(known)]) + "\n"
    if name not in known:
        raise ConfigError(
            f"--{group}.help: there is no class {name}",
            remedy=f"{suggestion(name, known)}Use one of {', '.join(known)}.",
        )
    doc = for_terminal(ast.get_docstring(_class(name)) or "")
    return "\n".join([f"--{group} {name}", "", doc, *_entries(f"{group}.", settings_of(name))]) + "\n"


def settings_of(name: str) -> list[Setting]:
    """Return the settings of a class.

    They are the fields of a dataclass, or the arguments of ``__init__``. If ``__init__`` takes ``**settings``, the
    arguments of the next class in the method resolution order follow.
    """
    settings: list[Setting] = []
    for node in _linearized(name):
        init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        if init is None:
            fields = list(_fields(node))
            if fields:
                return fields
            continue
        documented = parse(ast.get_docstring(init) or "").params or parse(ast.get_docstring(node) or "").params
        texts = {item.arg_name: item.description or "" for item in documented}
        arguments = [*init.args.args[1:], *init.args.kwonlyargs]
        defaults = [*([None] * (len(init.args.args) - len(init.args.defaults))), *init.args.defaults][1:]
        defaults += init.args.kw_defaults
        for argument, default in zip(arguments, defaults, strict=True):
            annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
            value = None if default is None else ast.unparse(default)
            settings.append(Setting(argument.arg, annotation, value, texts.get(argument.arg, "")))
        if init.args.kwarg is None:
            break
    return settings


def accepted_settings(class_path: str) -> set[str] | None:
    """Return the names of a class's settings; None if they cannot be determined.

    Args:
        class_path: The name or import path of one of explllm's classes, or the import path of another class.
    """
    module, _, name = class_path.rpartition(".")
    if name in _index() and (not module or module.startswith("explllm")):
        return {setting.name for setting in settings_of(name)}
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _fields(node: ast.ClassDef) -> Iterator[Setting]:
    for index, item in enumerate(node.body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            following = node.body[index + 1] if index + 1 < len(node.body) else None
            doc = following.value if isinstance(following, ast.Expr) else None
            text = doc.value if isinstance(doc, ast.Constant) else ""
            default = None if item.value is None else ast.unparse(item.value)
            yield Setting(item.target.id, ast.unparse(item.annotation), default, inspect.cleandoc(str(text)))


def _linearized(name: str) -> list[ast.ClassDef]:
    """Return a class and its bases within the package, in method resolution order."""
    node = _class(name)
    order = [node]
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in _index():
            order += _linearized(base.id)
    return [cls for index, cls in enumerate(order) if cls not in order[index + 1 :]]


@cache
def _index() -> dict[str, Path]:
    """Return the source file of every class and alias that settings may name."""
    package = Path(__file__).resolve().parents[1]
    rooms = ("commands", "conversation", "data", "faces", "metrics", "models", "training")
    files = [file for room in rooms for file in sorted((package / room).rglob("*.py"))]
    return {
        name: file
        for file in files
        for name in re.findall(r"^(?:class )?(\w+)(?=[(:]| = )", file.read_text(encoding="utf-8"), flags=re.M)
    }


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _class(name: str) -> ast.ClassDef:
    return next(item for item in _tree(_index()[name]).body if isinstance(item, ast.ClassDef) and item.name == name)


def _value(name: str) -> str:
    """Return the source text of the value of a constant or an alias; return any other name unchanged."""
    if name in _index():
        for item in _tree(_index()[name]).body:
            if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == name:
                return ast.unparse(item.value)
    return name


def _classes(names: tuple[str, ...]) -> list[str]:
    return [
        line for name in names for line in _entry(name, (ast.get_docstring(_class(name)) or "").partition("\n\n")[0])
    ]


def _entries(prefix: str, settings: list[Setting]) -> list[str]:
    """Return the help lines of settings; nested dataclasses come last."""
    lines, nested = [], []
    for setting in settings:
        kind = setting.annotation.removesuffix(" | None")
        if kind.endswith("Settings"):
            nested += _entries(f"{prefix}{setting.name}.", settings_of(kind))
            continue
        lines += _entry(f"--{prefix}{setting.name} {_metavar(kind)}", setting.help + _default(setting))
    return lines + nested


def _default(setting: Setting) -> str:
    if setting.default in (None, "None"):
        return ""
    source = _value(str(setting.default))
    try:
        return f" (default: {ast.literal_eval(source)})"
    except ValueError:
        return f" (default: {source})"


def _metavar(annotation: str) -> str:
    annotation = _value(annotation)
    if match := re.fullmatch(r"Literal\[(.*)\]", annotation):
        return "{" + match[1].replace("'", "").replace(", ", ",") + "}"
    numbers = {"int": "N", "PositiveInt": "N", "NonNegativeInt": "N", "float": "X", "bool": "{true,false}"}
    if "Augment" in annotation:
        return "CLASS"
    return numbers.get(annotation, "PATH" if "PathLike" in annotation else "TEXT")


def _entry(option: str, text: str) -> list[str]:
    words = for_terminal(" ".join(text.split()), 10_000).strip()
    return [f"  {option}", *textwrap.wrap(words, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]
