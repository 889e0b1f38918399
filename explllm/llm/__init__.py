"""A client for OpenAI-compatible language model servers.

`ChatClient` sends a `ChatRequest` and returns a `ChatAnswer`. It retries transient failures, keeps to the rate limits
and the budget of its `ChatSettings`, and records each request in a `Ledger` before it is sent and each answer before it
is used. A run that is interrupted at any point resumes without paying for an answer twice.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
