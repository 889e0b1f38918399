"""The commands ``explllm fit``, ``validate``, ``test`` and ``predict``; their help does not import Lightning."""

import sys
from collections.abc import Callable
from typing import Any

from explllm.commands.lightning_help import class_help, stage_help
from explllm.commands.parser import with_underscores


def fit(arguments: list[str]) -> None:
    """Train a model from a configuration and write a run folder.

      explllm fit --config demo.yaml
      explllm fit --config faces.yaml --data.root FOLDER
      explllm fit --config rafdb.yaml --trainer.devices 8
      explllm fit --config rafdb.yaml --ckpt_path last

    Options override the configuration. The run folder holds the resolved configuration, checkpoints, metrics.json and
    model/, which `explllm explain` opens. After an interruption, `--ckpt_path last` resumes the run.
    """
    _run("fit", arguments)


def validate(arguments: list[str]) -> None:
    """Evaluate a run on its validation faces.

      explllm validate --config demo.yaml

    The best checkpoint in the run folder is loaded, or the last one if there is no best checkpoint.
    """
    _run("validate", arguments)


def test(arguments: list[str]) -> None:
    """Evaluate a run on its test faces; write metrics, predictions and a report.

      explllm test --config demo.yaml

    The best checkpoint in the run folder is loaded, or the last one if there is no best checkpoint. The results
    are written to metrics.json, predictions.parquet and report.html in the run folder.
    """
    _run("test", arguments)


def predict(arguments: list[str]) -> None:
    """Recognize expressions in a data set, labeled or not.

      explllm predict --config faces.yaml --data.root FOLDER

    The best checkpoint in the run folder is loaded, or the last one if there is no best checkpoint. The results
    are written to predict/predictions.parquet in the run folder.
    """
    _run("predict", arguments)


_STAGES: dict[str, Any] = {"fit": fit, "validate": validate, "test": test, "predict": predict}
for _stage in _STAGES.values():
    _stage.parses_itself = True


def _run(stage: str, arguments: list[str]) -> None:
    words = with_underscores(arguments)
    text = _help(stage, words, _STAGES[stage])
    if text is not None:
        sys.stdout.write(text)
        raise SystemExit(0)
    # Deferred import: Lightning and torch take seconds to import, and --help needs neither.
    from explllm.commands.lightning_cli import run_stage

    run_stage(stage, ["--help" if word == "--trainer.help" else word for word in words])


def _help(stage: str, words: list[str], function: Callable[..., Any]) -> str | None:
    """Return the requested help; None if no help is requested, or only Lightning can generate it."""
    for index, word in enumerate(words):
        option, _, value = word.partition("=")
        if option in ("--help", "-h"):
            return stage_help(stage, function)
        if option in ("--model.help", "--data.help"):
            following = words[index + 1] if index + 1 < len(words) else ""
            return class_help(option[2:].partition(".")[0], value or following.lstrip("-"))
    return None
