"""Explained facial expression recognition.

Public names load on first use, which keeps ``import explllm`` and the command line fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from explllm.core.cpu import configure_threads

__version__ = "0.1.0"

# Before any import of torch, which reads the settings.
configure_threads()

_MODULES = {
    "ActionUnits": "explllm.faces.action_units",
    "ChainOfThought": "explllm.explanations.chain_of_thought",
    "ExpLLM": "explllm.models.explllm",
    "FEALLM": "explllm.models.explllm",
    "ExpLLMConfig": "explllm.models.configuration",
    "Expression": "explllm.core.expressions",
    "FaceDetector": "explllm.faces.detector",
    "InputError": "explllm.core.errors",
    "LabelSet": "explllm.core.expressions",
    "Manifest": "explllm.core.manifest",
    "RuleWriter": "explllm.explanations.rule_writer",
    "Recognition": "explllm.models.generation",
}

if TYPE_CHECKING:
    from explllm.core.errors import InputError
    from explllm.core.expressions import Expression, LabelSet
    from explllm.core.manifest import Manifest
    from explllm.explanations.chain_of_thought import ChainOfThought
    from explllm.explanations.rule_writer import RuleWriter
    from explllm.faces.action_units import ActionUnits
    from explllm.faces.detector import FaceDetector
    from explllm.models.configuration import ExpLLMConfig
    from explllm.models.explllm import FEALLM, ExpLLM
    from explllm.models.generation import Recognition

__all__ = [
    "FEALLM",
    "ActionUnits",
    "ChainOfThought",
    "ExpLLM",
    "ExpLLMConfig",
    "Expression",
    "FaceDetector",
    "InputError",
    "LabelSet",
    "Manifest",
    "Recognition",
    "RuleWriter",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'explllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
