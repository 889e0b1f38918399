"""Docstring examples run as written."""

import doctest
from importlib import import_module

import pytest

MODULES = [
    "explllm.core.expressions",
    "explllm.core.manifest",
    "explllm.drawn_faces.dataset",
    "explllm.drawn_faces.renderer",
    "explllm.explanations.chain_of_thought",
    "explllm.explanations.consistency",
    "explllm.explanations.grounding",
    "explllm.explanations.review",
    "explllm.explanations.rule_writer",
    "explllm.explanations.verdict",
    "explllm.faces.crop",
    "explllm.metrics.recognition",
    "explllm.models.explllm",
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    result = doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
