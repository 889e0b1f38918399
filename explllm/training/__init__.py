"""Training with Lightning: LightningModules, optimizer, checkpoints and callbacks.

`ExpLLMTask` trains an ExpLLM and `ActionUnitTask` an action unit regressor; both work with the data modules of
`explllm.data` and a plain `lightning.pytorch.Trainer`. The callbacks write the run folder (`RunFolder`), report
accuracy during training (`LiveAccuracy`), and judge or show generated explanations (`AsyncJudge`, `Gallery`). Names
are imported on first use, because Lightning takes seconds to import.
"""

from typing import Any

_MODULES = {
    "ActionUnitRunFolder": "callbacks.au_run_folder",
    "ActionUnitTask": "au_task",
    "AsyncJudge": "callbacks.async_judge",
    "ExpLLMTask": "task",
    "Gallery": "callbacks.gallery",
    "LastCheckpoint": "checkpoints",
    "LiveAccuracy": "callbacks.live_accuracy",
    "OptimizationSettings": "optimization",
    "RunFolder": "callbacks.run_folder",
}

__all__ = [
    "ActionUnitRunFolder",
    "ActionUnitTask",
    "AsyncJudge",
    "ExpLLMTask",
    "Gallery",
    "LastCheckpoint",
    "LiveAccuracy",
    "OptimizationSettings",
    "RunFolder",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
