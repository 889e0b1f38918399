"""A language model of rules: answers the engine's six prompts from their text alone, as a server's script.

It knows nothing but what it is sent. `tests/chat_server.py --script tests/engine/model_script.py:answer` serves it.
"""

import hashlib
import json
import re
import sys
from random import Random

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.instructions import write_instructions
from explllm.explanations.rule_writer import RuleWriter

WRITER = RuleWriter()
PLACES = {name.lower(): place for place, name in enumerate(NAMES)}
NEVER_PARSES = "I would rather not put a name to it; it could be many things."


def units_of(text):
    """Read the action units that a prompt tells."""
    told = re.search(r"(?:Positive action units|Action units|from 0 to 1): (.*?)\.?(?: Every| Claim|\n|$)", text)
    units = [0.0] * 24
    for name, value in re.findall(r"([a-z ]+): ([0-9.]*[0-9])", told[1]):
        units[PLACES[name.strip()]] = float(value)
    return units


def digest(units):
    return int(hashlib.sha256(json.dumps([round(value, 2) for value in units]).encode()).hexdigest(), 16)


def guess(units):
    """What the model takes a face to be at the first look."""
    return list(Expression)[digest(units) % 8]


def stubborn(description):
    """Whether the model never gives a readable label for a description; some tests replace this."""
    return False


def purpose(body):
    """Tell which process asks, by the schema or by the prompt's words."""
    question = body["messages"][-1]["content"]
    for words, name in (
        ("Analyze a face step by step", "au2des"),
        ("Which facial expression does this description", "des2exp"),
        ("Compare a description of a face", "verification"),
        ("write a revised analysis", "reflection"),
        ("Rewrite this description", "refinement"),
        ("Write the answer to one question", "instruction"),
    ):
        if words in question:
            return name
    raise AssertionError(question)


def answer(received):
    """Answer one of the engine's prompts."""
    question = received.body["messages"][-1]["content"]
    structured = "response_format" in received.body
    kind = purpose(received.body)
    if kind == "instruction":
        return instruction(question)
    if kind == "au2des":
        units = units_of(question)
        return WRITER.write(units, guess(units)).text
    if kind == "reflection":
        units = units_of(received.body["messages"][0]["content"])
        told = re.search(r"The expression of this face is (\w+)\.", question)
        rounds = sum(message["role"] == "assistant" for message in received.body["messages"])
        label = Expression(told[1]) if told else list(Expression)[(digest(units) + rounds) % 8]
        return WRITER.write(units, label, seed=rounds).text
    if kind == "des2exp":
        description = question.partition("Description: ")[2].partition("\n\nAn earlier answer to this")[0]
        if stubborn(description):
            return NEVER_PARSES
        label = str(ChainOfThought.parse(description).expression)
        return json.dumps({"expression": label}) if structured else label
    if kind == "verification":
        return json.dumps({"verdict": "Correct"}) if structured else "Correct"
    label = Expression(re.search(r"the expression, which is (\w+);", question)[1])
    cot = WRITER.write(units_of(question), label, seed=1)
    if not structured:
        return cot.text
    return json.dumps(
        {
            "key_observations": cot.key_observations,
            "overall_emotional_interpretation": cot.interpretation,
            "conclusion": cot.conclusion,
        }
    )


def instruction(question):
    """Answer a question for instruction data; at first, one face in three gets another label or a unit too many."""
    units, label = units_of(question), Expression(re.search(r"Expression: (\w+)\.", question)[1])
    kinds = {"Please describe": "description", "Which facial action units": "units", "which expression": "reasoning"}
    [kind] = [kind for words, kind in kinds.items() if words in question]
    if digest(units) % 3 == 0 and "Last version" not in question:
        label = list(Expression)[(list(Expression).index(label) + 1) % 8]
        units[units.index(0.0)] = 0.8
    return write_instructions(WRITER, units, label)[kind]


def slow(received):
    """Answer after 100 ms."""
    return _reply(received)(answer(received), delay=0.1)


def faulty(received):
    """Answer with faults and latencies, drawn by the request's number: what a bad night brings."""
    reply, random = _reply(received), Random(received.number)
    fault, delay = random.random(), random.uniform(0.005, 0.2)
    if fault < 0.10:
        return reply("slow down", status=429, delay=delay, headers={"Retry-After": "1"})
    if fault < 0.15:
        return reply("it broke", status=500, delay=delay)
    if fault < 0.18:
        return reply(drop=True, delay=delay)
    if fault < 0.21:
        return reply(answer(received), cut=30, delay=delay)
    return reply(answer(received), delay=delay)


def _reply(received):
    # The server may be a module or a process of its own.
    return sys.modules[type(received).__module__].Reply
