"""The six processes of one face, against a real server on loopback."""

import asyncio
import json

import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.engine.face import Face, Status
from explllm.engine.pipeline import explain_face
from explllm.engine.settings import EngineSettings
from explllm.explanations.checks import pair_problems
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.settings import ChatSettings

UNITS = [0.0] * 24
UNITS[NAMES.index("Left Lip Corner Pull")] = 0.62
UNITS[NAMES.index("Right Lip Corner Pull")] = 0.58
UNITS[NAMES.index("Jaw Drop")] = 0.12


@pytest.fixture
def work(chat_server, model_script, tmp_path):
    """Explain a face; returns the outcome and what the server received, with the purpose of each request."""

    def run(face, settings=None, answer=None):
        def script(received):
            said = (answer or model_script.answer)(received)
            return said if isinstance(said, chat_server.Reply) else chat_server.Reply(said)

        async def ask(url):
            with Ledger(tmp_path / "ledger.sqlite") as ledger:
                async with ChatClient(ChatSettings(model="scripted", base_url=url, max_retries=1), ledger) as client:
                    return await explain_face(face, client.ask, settings or EngineSettings())

        with chat_server.ChatServer(script) as server:
            outcome = asyncio.run(ask(server.url))
        return outcome, [(model_script.purpose(received.body), received) for received in server.received]

    return run


def face(label, units=UNITS):
    return Face("someone.jpg", tuple(units), label)


def other(label, by=1):
    return list(Expression)[(list(Expression).index(label) + by) % 8]


def test_a_face_that_is_understood_at_once(work, model_script):
    label = model_script.guess(UNITS)
    outcome, asked = work(face(label))
    assert [purpose for purpose, _ in asked] == ["au2des", "des2exp", "verification", "refinement"]
    assert (outcome.status, outcome.rounds, outcome.reason) == (Status.ACCEPTED, 0, "")
    assert pair_problems(outcome.cot, UNITS, label) == []
    first = asked[0][1].question
    assert "left lip corner pull: 0.62, right lip corner pull: 0.58" in first
    assert "jaw drop: 0.12" in first
    assert "The intensity of every other action unit is 0: left eye close, " in first
    # Neither the picture nor the label goes out before the model has said it itself.
    everything = json.dumps([received.body for _, received in asked])
    assert "image_url" not in everything and "someone.jpg" not in everything
    assert not any(str(expression) in first for expression in Expression)
    assert asked[1][1].question.endswith(asked[2][1].question.partition("Description: ")[2].partition("\n\nDoes")[0])
    assert "Use at most 130 words" in asked[3][1].question


def test_reflection_carries_the_memory_and_gives_the_label_past_the_threshold(work, model_script):
    label = other(model_script.guess(UNITS), 5)
    settings = EngineSettings(max_rounds=4, label_after=2)
    outcome, asked = work(face(label), settings)
    purposes = [purpose for purpose, _ in asked]
    # Whether the label matches is seen without asking: a description that arrives elsewhere is not verified.
    assert purposes == ["au2des", "des2exp", *["reflection", "des2exp"] * 3, "verification", "refinement"]
    assert (outcome.status, outcome.rounds) == (Status.LABEL_GIVEN, 3)
    reflections = [received for purpose, received in asked if purpose == "reflection"]
    for number, received in enumerate(reflections, 1):
        messages = received.body["messages"]
        assert [message["role"] for message in messages] == ["user", *["assistant", "user"] * number]
        assert messages[0]["content"] == asked[0][1].question
        given = f"The expression of this face is {label}." in received.question
        assert given == (number > 2)
        assert "arrives at" in received.question
    # The whole history goes along, and no message before the threshold names the true label.
    assert (
        reflections[2].body["messages"][:-1][: len(reflections[1].body["messages"])] == reflections[1].body["messages"]
    )
    before = [message["content"] for message in reflections[1].body["messages"] if message["role"] == "user"]
    assert not any(str(label) in content for content in before)


def test_a_face_that_is_never_understood_fails_with_the_reason(work, model_script):
    label = other(model_script.guess(UNITS), 5)
    outcome, asked = work(face(label), EngineSettings(max_rounds=1, label_after=2))
    assert [purpose for purpose, _ in asked] == ["au2des", "des2exp", "reflection", "des2exp"]
    assert outcome.status is Status.FAILED and outcome.cot is None
    assert "not accepted in 1 rounds: the description arrives at" in outcome.reason


def test_what_the_model_rejects_goes_back(work, model_script):
    rejected = []

    def answer(received):
        if model_script.purpose(received.body) == "verification" and not rejected:
            rejected.append(received)
            return "Incorrect."
        if model_script.purpose(received.body) == "reflection":
            return model_script.WRITER.write(UNITS, model_script.guess(UNITS), seed=9).text
        return model_script.answer(received)

    outcome, asked = work(face(model_script.guess(UNITS)), answer=answer)
    assert [purpose for purpose, _ in asked] == [
        "au2des",
        "des2exp",
        "verification",
        "reflection",
        "des2exp",
        "verification",
        "refinement",
    ]
    assert "does not fit the action units" in asked[3][1].question
    assert outcome.rounds == 1


def test_descriptions_are_held_against_the_action_units_before_the_model_is_asked(work, model_script):
    label = model_script.guess(UNITS)

    def answer(received):
        if model_script.purpose(received.body) == "au2des":
            return f"The brows are strongly raised and the nose is wrinkled, which makes it {label.lower()}."
        if model_script.purpose(received.body) == "des2exp":
            return str(label)
        if model_script.purpose(received.body) == "reflection":
            return model_script.WRITER.write(UNITS, label).text
        return model_script.answer(received)

    outcome, asked = work(face(label), answer=answer)
    assert [purpose for purpose, _ in asked][:3] == ["au2des", "des2exp", "reflection"]
    told = asked[2][1].question
    assert "left lip corner pull (0.62) is not mentioned" in told
    assert "nose wrinkle is claimed, but its intensity is 0" in told
    assert outcome.status is Status.ACCEPTED


def test_refinement_is_asked_again_with_what_was_wrong(work, model_script):
    label = model_script.guess(UNITS)
    faults = [
        lambda cot: cot.replace("**Conclusion:**", "**Conclusion:** She shows AU 12."),
        lambda cot: cot + " It goes on and on." * 30,
    ]

    def answer(received):
        if model_script.purpose(received.body) == "refinement" and faults:
            units = model_script.units_of(received.question)
            return faults.pop(0)(model_script.WRITER.write(units, label, seed=1).text)
        return model_script.answer(received)

    outcome, asked = work(face(label), answer=answer)
    assert [purpose for purpose, _ in asked][2:] == ["verification", "refinement", "refinement", "refinement"]
    assert "number of an action unit (AU 12)" in asked[4][1].question
    assert "personal pronoun (She)" in asked[4][1].question
    assert "words, more than the maximum of 130" in asked[5][1].question
    assert outcome.status is Status.ACCEPTED


def test_what_cannot_be_refined_goes_back_to_reflection(work, model_script):
    label = model_script.guess(UNITS)

    def answer(received):
        if model_script.purpose(received.body) == "refinement":
            return model_script.WRITER.write(UNITS, label).text + " It goes on and on." * 30
        if model_script.purpose(received.body) == "reflection":
            return model_script.WRITER.write(UNITS, label, seed=4).text
        return model_script.answer(received)

    outcome, asked = work(face(label), EngineSettings(max_rounds=1, max_refinements=2), answer)
    purposes = [purpose for purpose, _ in asked]
    assert purposes.count("refinement") == 4 and purposes.count("reflection") == 1
    assert outcome.status is Status.FAILED and "words, more than the maximum of 130" in outcome.reason


def test_answers_that_cannot_be_read_are_asked_again_and_then_counted(work, model_script):
    label, answers = model_script.guess(UNITS), ["I see.", "Happiness or Fear", None]

    def answer(received):
        if model_script.purpose(received.body) == "des2exp" and answers[0]:
            return answers.pop(0)
        return model_script.answer(received)

    outcome, asked = work(face(label), answer=answer)
    questions = [received.question for purpose, received in asked if purpose == "des2exp"]
    assert len(questions) == 3
    assert outcome.status is Status.ACCEPTED
    # The same words would mostly give the same answer.
    assert questions[1].startswith(questions[0] + "\n\n") and "could not be parsed. It began: I see." in questions[1]
    assert questions[2].startswith(questions[0] + "\n\n") and "It began: Happiness or Fear" in questions[2]
    assert "Answer with one of the words Neutral, Happiness" in questions[1]

    def never(received):
        if model_script.purpose(received.body) == "verification":
            return "Perhaps."
        return model_script.answer(received)

    outcome, asked = work(Face("another.jpg", tuple(UNITS), label), answer=never)
    assert [purpose for purpose, _ in asked].count("verification") == 3
    assert outcome.reason == "verification: no parsable answer in 3 attempts, last: 'Perhaps.'"


def test_a_refusal_fails_the_face_and_not_the_run(work, model_script, chat_server):
    outcome, _ = work(
        face(model_script.guess(UNITS)), answer=lambda received: chat_server.Reply(refusal="I cannot describe people.")
    )
    assert outcome.status is Status.FAILED
    assert "I cannot describe people" in outcome.reason


def test_nothing_is_asked_twice(work, model_script):
    first, asked = work(face(model_script.guess(UNITS)))
    again, nothing = work(face(model_script.guess(UNITS)))
    assert len(asked) == 4 and nothing == []
    assert again.cot == first.cot


def test_thoughts_are_no_part_of_an_answer(work, model_script):
    """A reasoning model thinks aloud before each answer."""
    thoughts = "<think>Is it Fear? No.\n\n**Conclusion:** Fear.</think>\n\n"
    label = other(model_script.guess(UNITS))
    outcome, asked = work(face(label), answer=lambda received: thoughts + model_script.answer(received))
    assert outcome.status is not Status.FAILED and outcome.rounds > 0
    assert "think" not in outcome.cot.text
    assert not any("think>" in json.dumps(received.body) for _, received in asked)
    assert len(asked) == len({json.dumps(received.body) for _, received in asked})


def test_hidden_reasoning_gets_room(work, model_script, chat_server):
    """A model that needs 1,000 tokens of hidden reasoning before each answer."""

    def answer(received):
        if received.body["max_tokens"] < 1100:
            return chat_server.Reply("", finish_reason="length", usage=(100, received.body["max_tokens"]))
        return model_script.answer(received)

    outcome, asked = work(face(model_script.guess(UNITS)), answer=answer)
    assert outcome.status is Status.ACCEPTED
    # Each process learns for itself how much its questions need.
    purposes = [purpose for purpose, _ in asked]
    assert purposes[::2] == purposes[1::2] == ["au2des", "des2exp", "verification", "refinement"]
    assert asked[0][1].question == asked[1][1].question


def test_a_description_that_is_cut_off_is_no_description(work, model_script, chat_server):
    def answer(received):
        return chat_server.Reply("The brows are", finish_reason="length", usage=(100, 999))

    outcome, asked = work(face(model_script.guess(UNITS)), answer=answer)
    assert outcome.reason == "au2des: no parsable answer in 3 attempts, last: cut off after 999 tokens"
    assert len(asked) == 3


@pytest.mark.parametrize(
    "conclusion", ["The face shows {other}.", "The face shows a strong emotion.", "It is {other} rather than {label}."]
)
def test_the_label_is_not_told_by_what_refinement_left(work, model_script, conclusion):
    label = model_script.guess(UNITS)
    ending = conclusion.format(label=label.lower(), other=other(label).lower())

    def answer(received):
        kind = model_script.purpose(received.body)
        if kind == "refinement" and not reflected:
            cot = model_script.WRITER.write(UNITS, label, seed=1)
            return cot.text.replace(cot.conclusion, ending)
        if kind == "reflection":
            reflected.append(received)
            return model_script.WRITER.write(UNITS, label, seed=4).text
        return model_script.answer(received)

    reflected = []
    outcome, _ = work(face(label), EngineSettings(max_refinements=1), answer)
    [reflection] = reflected
    assert outcome.status is Status.ACCEPTED
    told = [message["content"] for message in reflection.body["messages"] if message["role"] == "user"]
    assert not any(str(label).lower() in content.lower() for content in told), told
    assert "the conclusion is not the one that the analysis leads to" in told[-1]


def test_units_that_were_not_measured_are_neither_present_nor_absent(work, model_script):
    dead = ("Nose Wrinkle", "Cheeks Puff")
    units = [None if name in dead else value for name, value in zip(NAMES, UNITS, strict=True)]
    label = model_script.guess(UNITS)
    outcome, asked = work(face(label, units))
    assert outcome.status is Status.ACCEPTED
    first, verification = asked[0][1].question, asked[2][1].question
    assert "Not measured, and therefore neither present nor absent: cheeks puff, nose wrinkle." in first
    assert "nose wrinkle" not in first.partition("Not measured")[0]
    assert "except those that were not measured and should be ignored: cheeks puff, nose wrinkle." in verification
