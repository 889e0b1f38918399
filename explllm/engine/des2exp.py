"""Des2Exp Generation (paper, Section III-B-3): the expression that a description implies."""

import re
from collections.abc import Iterable
from typing import Any

from explllm.core.expressions import Expression
from explllm.engine.dialogue import Dialogue
from explllm.llm.prompt import render
from explllm.llm.reading import answer_field, object_schema

MAX_TOKENS = 32


def expression_schema(labels: Iterable[Expression]) -> dict[str, Any]:
    """Return the JSON schema of an answer that is one of the given expressions."""
    return object_schema("expression", expression={"type": "string", "enum": [str(label) for label in labels]})


SCHEMA = expression_schema(Expression)
EXPECTED = f"one of the words {', '.join(Expression)}, and nothing else"


async def infer(description: str, dialogue: Dialogue) -> Expression:
    """Return which of the eight expressions the model infers from a description alone."""
    question = render("explllm.engine", "des2exp", labels=", ".join(Expression), description=description)
    return await dialogue.ask("des2exp", question, read_expression, EXPECTED, MAX_TOKENS, SCHEMA)


def read_expression(text: str) -> Expression | None:
    """Parse one label: bare, quoted, or as a structured answer; None if the text contains anything else."""
    word = re.sub(r"^[\s\"'*`]+|[\s\"'*`.]+$", "", answer_field(text, "expression"))
    return Expression.parse_or_none(word)
