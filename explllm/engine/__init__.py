"""The Exp-CoT Engine (paper, Section III-B): chains of thought from measured action units.

`explain_face` runs the six processes for one face: Img2AU (`img2au`), AU2Des (`au2des`), Des2Exp (`des2exp`), Result
Verification (`verification`), Feedback Reflection (`reflection`) and Format Refinement (`refinement`).
`build_with_model` and `build_offline` process a manifest, with a model or by rules. `baseline` asks a multimodal model
about the images instead (Table III).
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "BaselineSettings": "settings",
    "EngineSettings": "settings",
    "Face": "face",
    "Outcome": "face",
    "RunResult": "runner",
    "Status": "face",
    "build_offline": "build",
    "build_with_model": "build",
    "explain_face": "pipeline",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
