"""What ``explllm`` prints without a command: commands by task, and the next step in this folder."""

from __future__ import annotations

import json
from pathlib import Path

from explllm.core.errors import MissingPathError
from explllm.core.files import METRICS_FILE
from explllm.models.known import cached, run_models, shipped_model

JOBS = {
    "explain faces": ("explain face.jpg", "recognize faces/ -o expressions.csv"),
    "train and test": ("fit --config faces.yaml --data.root FOLDER", "test --config faces.yaml --data.root FOLDER"),
    "build chains of thought": (
        "data --help",
        "aus faces.parquet -o aus.parquet --landmarker FILE",
        "cot build aus.parquet -o cot.parquet",
    ),
    "measure and compare": ("score runs/NAME", "compare runs/A runs/B"),
    "set up": ("models", "models get scrfd", "doctor", "--help"),
}
"""Commands by task."""


def overview() -> str:
    """Return the commands by task, and the next step."""
    lines = ["explllm recognizes facial expressions and explains them.", ""]
    for job, commands in JOBS.items():
        lines += [job, *(f"  explllm {command}" for command in commands), ""]
    reason, command = next_step()
    return "\n".join([*lines, f"next: {reason}", f"  explllm {command}", ""])


def next_step(runs: Path = Path("runs")) -> tuple[str, str]:
    """Return the reason for the next step and its command, based on the runs in a folder and the installed models."""
    models = list(run_models(runs))
    for model in models:
        if not _is_tested(model.parent):
            return f"{model.parent} is trained but not tested", f"test --run_dir {model.parent}"
    if models:
        newest = max(models, key=lambda model: (model / "config.json").stat().st_mtime)
        return "try your model on a face", f"explain face.jpg --model {newest}"
    try:
        shipped_model()
    except MissingPathError:
        return "train a small model on drawn faces, in minutes", "fit --config demo.yaml"
    if cached("scrfd") is None:
        return "explain a cropped face; for photographs, download a face detector first", "explain face.jpg"
    return "explain the faces of a photograph", "explain photograph.jpg"


def _is_tested(run: Path) -> bool:
    """Return whether a run folder has the metrics of a test; `fit` writes metrics of its own to the same file."""
    path = run / METRICS_FILE
    if not path.is_file():
        return False
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # a damaged file
    if not isinstance(metrics, dict):
        return False
    return "fit/steps" not in metrics or any(name.startswith("test/") for name in metrics)
