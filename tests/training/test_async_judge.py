"""Judging while training: nothing waits for the judge, and nothing breaks with it."""

import json
import time

import pandas as pd
import pytest
import yaml

GOOD = '{"key_observations": 3, "overall_emotional_interpretation": 3, "conclusion": 0}'


@pytest.fixture
def fit(explllm, small_settings, tmp_path):
    """Trains the small model for some epochs with callbacks; returns what the command said and its seconds."""

    def run(*callbacks, epochs=2):
        settings = json.loads(json.dumps(small_settings))
        settings["trainer"] |= {"max_epochs": epochs, "callbacks": list(callbacks)}
        (tmp_path / "judged.yaml").write_text(yaml.safe_dump(settings))
        start = time.monotonic()
        done = explllm("fit", "--config", "judged.yaml")
        return done, time.monotonic() - start

    return run


def judge(**settings):
    return {"class_path": "AsyncJudge", "init_args": {"faces": 3, **settings}}


def noted(tmp_path):
    return [json.loads(line) for line in (tmp_path / "runs/small/judge.jsonl").read_text().splitlines()]


def logged(tmp_path):
    [path] = (tmp_path / "runs/small/logs").glob("*/metrics.csv")
    frame = pd.read_csv(path)
    return frame[frame["judge/score"].notna()] if "judge/score" in frame else frame.iloc[:0]


def test_scores_stand_under_the_step_that_made_them(fit, chat_server, tmp_path):
    with chat_server.ChatServer(lambda received: chat_server.Reply(GOOD, delay=0.3)) as server:
        done, _ = fit(judge(judge="scripted", base_url=server.url))
    assert (done.status, done.err) == (0, "")
    rows = noted(tmp_path)
    steps = sorted({row["step"] for row in rows})
    assert len(rows) == len(server.received) == 6 and len(steps) == 2
    assert [row["score"] for row in rows] == [pytest.approx(0.4)] * 6
    assert all(row["judge"].startswith("scripted, prompt ") for row in rows)
    # The same faces after every validation.
    assert len({tuple(sorted(row["image"] for row in rows if row["step"] == step)) for step in steps}) == 1
    table = logged(tmp_path)
    assert table["step"].tolist() == steps and table["judge/score"].tolist() == [pytest.approx(0.4)] * 2
    metrics = json.loads((tmp_path / "runs/small/metrics.json").read_text())
    assert metrics["judge/score"] == pytest.approx(0.4) and metrics["judge/step"] == steps[-1]
    assert metrics["judge/name"].startswith("scripted, prompt ") and "fit/steps" in metrics


def test_the_offline_judge(fit, tmp_path):
    done, _ = fit(judge(), epochs=1)
    assert (done.status, done.err) == (0, "")
    assert all(0 <= row["score"] <= 1 and row["judge"].startswith("offline") for row in noted(tmp_path))


def test_nothing_waits_for_the_judge(fit, chat_server, tmp_path):
    """Two validations, three faces each, 2 s an answer: the fit goes on meanwhile."""
    asked = []

    def slow(received):
        asked.append(time.monotonic())
        return chat_server.Reply(GOOD, delay=2.0)

    with chat_server.ChatServer(slow) as server:
        done, seconds = fit(judge(judge="scripted", base_url=server.url), epochs=3)
    assert done.status == 0 and len(noted(tmp_path)) == 9
    # The judge was asked anew before it had answered: training did not stand still.
    assert asked[-1] - asked[0] < seconds
    fitted = json.loads((tmp_path / "runs/small/metrics.json").read_text())["fit/seconds"]
    assert seconds - fitted > 1.5  # it waits at the end only, for what is still out


@pytest.mark.parametrize("kind", ["hangs", "dies", "unreachable", "refuses", "talks"])
def test_a_judge_that_fails_is_warned_of_once(fit, chat_server, tmp_path, kind):
    replies = {
        "hangs": chat_server.Reply(GOOD, delay=3600),
        "dies": chat_server.Reply("no", status=401),
        "refuses": chat_server.Reply(refusal="I will not."),
        "talks": chat_server.Reply("Very good."),
    }
    with chat_server.ChatServer(lambda received: replies[kind]) as server:
        url = "http://127.0.0.1:9/v1" if kind == "unreachable" else server.url
        done, seconds = fit(judge(judge="scripted", base_url=url, drain_seconds=1.0))
    assert done.status == 0
    assert seconds < 60
    warnings = done.err.splitlines()
    assert sum("gives no score" in line for line in warnings) == (0 if kind == "hangs" else 1), warnings
    assert sum("6 of 6 judgements are missing" in line for line in warnings) == 1, warnings
    assert (tmp_path / "runs/small/model").is_dir()
    assert len(noted(tmp_path)) == 6 and all(row["missing"] for row in noted(tmp_path))


def test_a_gallery(fit, tmp_path):
    done, _ = fit({"class_path": "Gallery", "init_args": {"faces": 2}}, judge())
    assert done.status == 0
    pages = sorted((tmp_path / "runs/small/gallery").glob("step_*.html"))
    assert len(pages) == 2
    page = pages[0].read_text()
    assert page.count("<article>") == 2 and "data:image/jpeg;base64," in page
    assert "drawn by a program" in page
    table = pd.read_csv(tmp_path / "runs/small/gallery/explained.csv")
    assert len(table) == 4 and table["image"].nunique() == 2
    assert set(table["predicted"]) <= set(table["expression"]) | set(table["predicted"])
    assert table["probability"].between(0, 1).all()


def test_bad_settings(fit):
    assert "0 faces" in fit(judge(faces=0))[0].error
    assert "gallery of 0" in fit({"class_path": "Gallery", "init_args": {"faces": 0}})[0].error
