"""Des2Exp Generation (paper, Section III-B-3): the expression that a description arrives at."""

import json
import re
from collections.abc import Iterable
from typing import Any

from explllm.core.errors import UnknownExpressionError
from explllm.core.expressions import Expression
from explllm.engine.asking import Asker
from explllm.llm.prompt import render
from explllm.llm.request import ChatMessage

MAX_TOKENS = 32


def expression_schema(labels: Iterable[Expression]) -> dict[str, Any]:
    """Return the JSON schema of an answer that is one of some expressions."""
    return {
        "title": "expression",
        "type": "object",
        "properties": {"expression": {"type": "string", "enum": [str(expression) for expression in labels]}},
        "required": ["expression"],
        "additionalProperties": False,
    }


SCHEMA = expression_schema(Expression)
WANTED = f"one of the words {', '.join(Expression)}, and nothing else"


async def infer(description: str, ask: Asker) -> Expression:
    """Ask which of the eight expressions a description arrives at.

    Args:
        description: The description; nothing else is told.
        ask: Who is asked.

    Returns:
        The expression.
    """
    question = render("explllm.engine", "des2exp", labels=", ".join(Expression), description=description)
    return await ask("des2exp", (ChatMessage("user", question),), read_expression, WANTED, MAX_TOKENS, SCHEMA)


def read_expression(text: str) -> Expression | None:
    """Read one label: bare, quoted, or as structured answer; None if there is anything else."""
    try:
        value = json.loads(text)
        text = str(value.get("expression", "")) if isinstance(value, dict) else str(value)
    except ValueError:
        pass
    word = re.sub(r"^[\s\"'*`]+|[\s\"'*`.]+$", "", text)
    try:
        return Expression.parse(word)
    except UnknownExpressionError:
        return None
