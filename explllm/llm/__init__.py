"""A client for OpenAI-compatible language model servers.

`ChatClient` sends a `ChatRequest` and returns a `ChatAnswer`. It retries transient failures, keeps to the rate limits
and the budget of its `ChatSettings`, and records each request in a `Ledger` before it is sent and each answer before it
is used. A run that is interrupted at any point resumes without paying for an answer twice.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "ChatAnswer": "request",
    "ChatClient": "client",
    "ChatFailure": "request",
    "ChatImage": "request",
    "ChatMessage": "request",
    "ChatRequest": "request",
    "ChatSettings": "settings",
    "Ledger": "ledger",
    "OutOfBudget": "request",
    "Refused": "request",
    "Stopped": "request",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
