"""Domain types: expressions, action units, FACS, the manifest, errors, and atomic files.

Nothing here imports torch, and only the manifest imports pandas. The names below load on first use, which keeps
``explllm --help`` fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.core.action_units import FEAFA, ActionUnit
    from explllm.core.errors import InputError
    from explllm.core.expressions import LABEL_SETS, Expression, LabelSet
    from explllm.core.manifest import Manifest

_MODULES = {
    "FEAFA": "action_units",
    "LABEL_SETS": "expressions",
    "ActionUnit": "action_units",
    "Expression": "expressions",
    "InputError": "errors",
    "LabelSet": "expressions",
    "Manifest": "manifest",
}

__all__ = ["FEAFA", "LABEL_SETS", "ActionUnit", "Expression", "InputError", "LabelSet", "Manifest"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
