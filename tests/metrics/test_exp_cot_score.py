"""The Exp-CoT Score and who gives it."""

import asyncio
import inspect
import json

import pandas as pd
import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.rule_writer import RuleWriter
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatFailure
from explllm.llm.settings import ChatSettings
from explllm.metrics.exp_cot_score import Judgment, exp_cot_score
from explllm.metrics.judges import RuleJudge, find_judge, register_judge, registered_judges
from explllm.metrics.judges.chat import ChatJudge, parse_judgment
from explllm.metrics.judges.rules import OfflineJudge

UNITS = [0.0] * 24
for name, value in (("Left Brow Raise", 0.7), ("Right Brow Raise", 0.7), ("Jaw Drop", 0.5)):
    UNITS[NAMES.index(name)] = value
SURPRISE = RuleWriter().write(UNITS, Expression.SURPRISE).text


def test_the_papers_formula():
    assert Judgment(3.53, 3.72, 4.15).score == pytest.approx(0.76)
    # The paper prints 0.63 for GPT-4o.
    assert Judgment(2.93, 3.22, 3.25).score == pytest.approx(0.6267, abs=1e-4)
    means = exp_cot_score([Judgment(5, 4, 5), Judgment(1, 0, 0)])
    assert (means["key_observations"], means["interpretation"], means["conclusion"]) == (3, 2, 2.5)
    assert means["score"] == pytest.approx(0.5) and means["count"] == 2
    assert exp_cot_score([])["count"] == 0


def test_the_offline_judge():
    judge = OfflineJudge()
    assert judge.compare(SURPRISE, SURPRISE) == Judgment(5, 5, 5)
    other = judge.compare(RuleWriter().write(UNITS, Expression.FEAR, seed=3).text, SURPRISE)
    assert other.conclusion == 0 and other.key_observations > 4
    smile = [0.0] * 24
    smile[NAMES.index("Left Lip Corner Pull")] = smile[NAMES.index("Right Lip Corner Pull")] = 0.6
    apart = judge.compare(RuleWriter().write(smile, Expression.HAPPINESS).text, SURPRISE)
    assert apart.key_observations == 0 and apart.conclusion == 0
    weaker = [value / 4 for value in UNITS]
    faint = judge.compare(RuleWriter().write(weaker, Expression.SURPRISE).text, SURPRISE)
    assert faint.key_observations < 4 and faint.conclusion == 5
    assert judge.compare("no text", SURPRISE).score < 0.35


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"key_observations": 3, "overall_emotional_interpretation": 4.5, "conclusion": 5}', Judgment(3, 4.5, 5)),
        (
            '```json\n{"key_observations": 0, "overall_emotional_interpretation": 0, "conclusion": 0}\n```',
            Judgment(0, 0, 0),
        ),
        ('{"key_observations": 6, "overall_emotional_interpretation": 4, "conclusion": 5}', None),
        ('{"key_observations": 3, "overall_emotional_interpretation": 4, "conclusion": 3}', None),
        ('{"key_observations": 3, "conclusion": 5}', None),
        ('{"key_observations": "good", "overall_emotional_interpretation": 4, "conclusion": 5}', None),
        ("Five out of five.", None),
        ("[3, 4, 5]", None),
        ("", None),
    ],
)
def test_reading_a_judgment(text, found):
    assert parse_judgment(text) == found


def test_a_model_as_judge(chat_server, tmp_path):
    answers = ["Well.", '{"key_observations": 3, "overall_emotional_interpretation": 4, "conclusion": 5}']

    async def judged(url, generated):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with ChatClient(ChatSettings(model="scripted", base_url=url), ledger) as client:
                judge = ChatJudge(client, "scripted")
                return await judge.judge(generated, SURPRISE, "face"), judge.name

    with chat_server.ChatServer(lambda received: chat_server.Reply(answers[min(received.number, 2) - 1])) as server:
        found, name = asyncio.run(judged(server.url, "a generated text"))
        again, _ = asyncio.run(judged(server.url, "a generated text"))
    assert found == again == Judgment(3, 4, 5)
    assert len(server.received) == 2  # the second run was paid for by the first
    question = server.received[0].question
    assert "a generated text" in question and SURPRISE in question
    assert server.received[0].body["temperature"] == 0
    assert server.received[0].body["response_format"]["type"] == "json_schema"
    assert name.startswith("scripted, prompt ")

    talker = chat_server.ChatServer(lambda received: chat_server.Reply("Well."))
    with talker as server, pytest.raises(ChatFailure, match="no parsable answer in 3 attempts"):
        asyncio.run(judged(server.url, "another text"))


def test_the_command(explllm, tmp_path, reference_data, chat_server):
    reference = reference_data / "rafdb" / "rafdb_cot_first600.json"
    records = json.loads(reference.read_text())
    generated = [dict(record) for record in records[:40]]
    generated[3]["description"] = records[8]["description"]
    (tmp_path / "mine.json").write_text(json.dumps(generated))
    done = explllm("score", "mine.json", "--reference", reference, "-o", "scores.jsonl", "--json")
    assert done.status == 0, done
    found = json.loads(done.out)
    assert found["judge"].startswith("offline")
    assert found["exp_cot_score"]["count"] == 40 and 0.95 < found["exp_cot_score"]["score"] < 1
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and rows[0]["score"] == 1 and rows[3]["score"] < 1
    shown = explllm("score", "mine.json", "--reference", reference).out
    assert "offline" in shown and "published" in shown and "0.76" in shown
    assert "Exp-CoT Score" not in explllm("score", "mine.json").out

    good = '{"key_observations": 3, "overall_emotional_interpretation": 3, "conclusion": 0}'
    script = lambda received: chat_server.Reply("?" if records[5]["description"] in received.question else good)  # noqa: E731
    with chat_server.ChatServer(script) as server:
        options = ("--judge", "scripted", "--base-url", server.url, "--json", "-o", "judged.jsonl")
        done = explllm("score", "mine.json", "--reference", reference, *options)
    found = json.loads(done.out)
    assert done.status == 1 and found["not_judged"] == 1
    assert found["exp_cot_score"]["score"] == pytest.approx(0.4) and found["judge"].startswith("scripted, prompt")

    (tmp_path / "other.json").write_text(json.dumps([{**records[0], "file_name": "elsewhere.jpg"}]))
    assert "no image of" in explllm("score", "other.json", "--reference", reference).error
    assert "the file does not exist" in explllm("score", "none.json").error


def test_a_registered_judge_is_found_by_its_name(explllm, tmp_path):
    """The example in the docstring of `explllm.metrics.judges`."""
    import explllm.metrics.judges as judges

    example = judges.__doc__.split("folder; every module here is imported when a judge is looked up:\n")[1]
    namespace = {}
    exec(inspect.cleandoc(example.partition("\n\n`explllm score")[0]), namespace)
    try:
        assert registered_judges() == ("offline", "overlap")
        assert isinstance(find_judge("overlap"), namespace["OverlapJudge"])
        assert isinstance(find_judge("offline"), OfflineJudge) and find_judge("gpt-4o") is None
        with pytest.raises(ValueError, match="two judges are named 'overlap'"):

            @register_judge("overlap")
            class Other(RuleJudge):
                name = "other"

                def compare(self, generated, reference):
                    return Judgment(0, 0, 0)

        rows = [{"image": "a.png", "cot": "one two three four"}, {"image": "b.png", "cot": "five six"}]
        pd.DataFrame(rows).to_json(tmp_path / "mine.jsonl", orient="records", lines=True)
        rows[1]["cot"] = "seven eight"
        pd.DataFrame(rows).to_json(tmp_path / "theirs.jsonl", orient="records", lines=True)
        done = explllm("score", "mine.jsonl", "--reference", "theirs.jsonl", "--judge", "overlap", "--json")
        metrics = json.loads(done.out)
        assert metrics["judge"] == "overlap (shared words)" and metrics["exp_cot_score"]["score"] == 0.5
    finally:
        judges._REGISTRY.pop("overlap")
