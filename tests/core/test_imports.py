"""The core stays light: it can be imported where no deep-learning library is wanted."""

import subprocess
import sys

import pytest

MODULES = ["errors", "expressions", "action_units", "manifest"]


def _loaded(statement: str, names: list[str]) -> set[str]:
    code = f"{statement}\nimport sys\nprint([name for name in {names!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(eval(result.stdout, {"__builtins__": {}}))


@pytest.mark.parametrize("module", ["explllm.core", *(f"explllm.core.{name}" for name in MODULES)])
def test_core_loads_neither_torch_nor_transformers(module):
    assert _loaded(f"import {module}", ["torch", "transformers", "lightning", "openai"]) == set()


def test_only_the_manifest_loads_pandas():
    others = [f"explllm.core.{name}" for name in MODULES if name != "manifest"]
    others += [f"explllm.explanations.{name}" for name in ("chain_of_thought", "verdict", "rule_writer")]
    assert _loaded(f"import explllm.core, {', '.join(others)}", ["pandas", "numpy"]) == set()
    assert _loaded("import explllm.core.manifest", ["pandas"]) == {"pandas"}
