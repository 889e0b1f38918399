"""The layout that the README promises: imports go one way, and the light parts stay light."""

import ast
import subprocess
import sys

import pytest

LEVELS = {
    "core": 0,
    "explanations": 1,
    "llm": 2,
    "conversation": 2,
    "faces": 2,
    "drawn_faces": 2,
    "data": 3,
    "models": 3,
    "engine": 3,
    "metrics": 3,
    "report": 4,
    "training": 5,
    "app": 6,
    "commands": 6,
    "cli": 7,
}


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("explllm."):
                yield name.split(".")[1]


def test_imports_go_one_way(repository):
    files = sorted((repository / "explllm").rglob("*.py"))
    assert len(files) > 20
    wrong = []
    for path in files:
        own = path.relative_to(repository / "explllm").with_suffix("").parts[0]
        if own in ("__init__", "__main__"):
            continue
        assert own in LEVELS, f"{path}: a package that DESIGN's layout does not know"
        wrong += [
            f"{path.relative_to(repository)} imports {other}"
            for other in imported_packages(path)
            if other != own and LEVELS[other] >= LEVELS[own]
        ]
    assert wrong == []


def test_models_do_not_import_lightning(repository):
    for path in (repository / "explllm" / "models").rglob("*.py"):
        assert "lightning" not in path.read_text(encoding="utf-8").replace("Lightning is not imported", "")


@pytest.mark.parametrize("module", ["explllm", "explllm.cli", "explllm.core.expressions", "explllm.core.manifest"])
def test_light_modules_load_neither_torch_nor_transformers(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_load():
    import explllm

    for name in explllm.__all__:
        assert getattr(explllm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = explllm.nothing
