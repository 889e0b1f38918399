"""``explllm score``: texts and labels made elsewhere."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.explanations.claims import claims
from explllm.explanations.rule_writer import RuleWriter

GOOD = '{"key_observations": 3, "overall_emotional_interpretation": 3, "conclusion": 0}'
LABELS = ("Happiness", "Sadness", "Surprise", "Fear", "Anger", "Disgust")


def units(place):
    """Some intensities."""
    return [0.5 if unit in (place, place + 6, 23 - place) else 0.0 for unit in range(24)]


@pytest.fixture
def faces(tmp_path):
    """Twelve faces, two in each of six images, with texts by rules."""
    rows = [
        {
            "image": f"{place // 2}.jpg",
            "box": [10.0 + 50 * (place % 2), 0, 40, 40],
            "expression": LABELS[place % 6],
            "action_units": units(place % 6),
            "cot": RuleWriter().write(units(place % 6), Expression(LABELS[place % 6]), seed=place).text,
            "cot_source": "offline",
        }
        for place in range(12)
    ]
    Manifest(pd.DataFrame(rows), tmp_path).write(tmp_path / "faces.parquet")
    return tmp_path / "faces.parquet"


@pytest.fixture
def score(explllm, tmp_path):
    """Scores a table; returns the figures, and the figures of each text."""

    def run(table, *options, status=0):
        done = explllm("score", table, *options, "--json", "-o", "each.jsonl")
        assert done.status == status, done
        return json.loads(done.out), [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]

    return run


def changed(path, change):
    """The same table with other cells, in another file."""
    frame = Manifest.read(path).frame
    frame = change(frame)
    Manifest(frame, path.parent).write(path.with_name("changed.parquet"))
    return path.with_name("changed.parquet")


def test_a_run_folder(fitted, small_config, explllm, tmp_path, score):
    shutil.copytree(fitted, tmp_path / "run")
    assert "does not contain predictions.parquet" in explllm("score", "run").error
    assert explllm("test", "--config", small_config, "--run_dir", "run").status == 0
    figures, each = score("run")
    held = json.loads((tmp_path / "run/metrics.json").read_text())
    found = figures["recognition"]
    assert found["by"] == "predicted" and found["count"] == 27
    for name in ("accuracy", "macro_recall", "macro_f1", "nll", "ece", "auroc", "recall", "confusion", "predictions"):
        assert found[name] == held[f"test/{name}"], name
    texts = Manifest.read(tmp_path / "run/predictions.parquet").frame["cot"].notna().sum()
    assert figures["count"] == len(each) == texts
    assert f"macro recall {found['macro_recall']:.3f}" in explllm("score", "run").out


def test_labels_as_the_released_code_writes_them(explllm, tmp_path, score):
    """``result_all.json``; what is no label counts as wrong, and is counted."""
    answers = ["Happiness", "happy", "A face.", "", "Sadness", "Fear"]
    truth = ["Happiness", "Happiness", "Happiness", "Sadness", "Sadness", "Surprise"]
    rows = [
        {"task": "emo_estim", "gt": gt, "offset": [0, 0], "img_path": f"/data/{place}.jpg", "pred": pred}
        for place, (gt, pred) in enumerate(zip(truth, answers, strict=True))
    ]
    (tmp_path / "result_all.json").write_text(json.dumps(rows))
    found = score("result_all.json")[0]["recognition"]
    assert (found["by"], found["count"], found["no_label"]) == ("predicted", 6, 2)
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    said = " ".join(explllm("score", "result_all.json").out.split())
    assert "2 answers name no expression" in said and "by the column predicted" in said
    rows[1]["img_path"] = rows[0]["img_path"]
    (tmp_path / "twice.json").write_text(json.dumps(rows))
    error = explllm("score", "twice.json").error
    assert "duplicate expression for /data/0.jpg" in error and "record 2" in error
    (tmp_path / "nobody.json").write_text('[{"emo": "Fear"}]')
    assert "no file_name or img_path" in explllm("score", "nobody.json").error


def test_texts_as_the_released_code_writes_them(faces, score, tmp_path):
    """Results hold the text that they are compared with; labels of the same faces may stand in the same file."""
    rows = []
    for place, row in Manifest.read(faces).frame.iterrows():
        image = {"offset": [0, 0], "img_path": f"/data/{place}.jpg"}
        text = row["cot"] if place else "No idea."
        rows.append({"task": "emo_estim", "gt": row["expression"], "pred": row["expression"], **image})
        rows.append({"task": "description", "gt": row["cot"], "pred": text, **image})
    (tmp_path / "result_all.json").write_text(json.dumps(rows))
    figures, each = score("result_all.json")
    assert figures["exp_cot_score"]["count"] == 12 and figures["judge"].startswith("offline")
    assert [one["score"] for one in each][1:] == [1] * 11 and each[0]["score"] < 0.4
    assert figures["agreement"] == pytest.approx(11 / 12) and figures["recognition"]["accuracy"] == 1

    # The list that the authors make of a result, to have texts written after the labels that were found.
    listed = [
        {"file_name": f"{place}.jpg", "gt_emo": row["expression"], "emo": "Happiness", "description": row["cot"]}
        for place, row in Manifest.read(faces).frame.iterrows()
    ]
    (tmp_path / "found.json").write_text(json.dumps(listed))
    figures, _ = score("found.json")
    assert figures["recognition"]["accuracy"] == figures["agreement"] == pytest.approx(2 / 12)


def test_what_the_texts_arrive_at(faces, score, explllm):
    """Where no label was said, the conclusion is the answer; faces without a label are counted."""

    def change(frame):
        frame.loc[0, "cot"] = frame.loc[1, "cot"]
        frame.loc[2, "cot"] = "A face."
        frame.loc[[3, 4], "expression"] = None
        return frame

    figures, each = score(changed(faces, change))
    found = figures["recognition"]
    assert (found["by"], found["count"], found["unlabeled"], found["no_label"]) == ("conclusion", 10, 2, 1)
    assert found["accuracy"] == pytest.approx(8 / 10) and figures["count"] == len(each) == 12
    said = " ".join(explllm("score", "changed.parquet").out.split())
    assert "by the conclusion of the texts" in said and "2 faces without a true label" in said


def test_no_labels_at_all(faces, score, explllm):
    figures, each = score(changed(faces, lambda frame: frame.drop(columns="expression")))
    assert "recognition" not in figures and figures["grounding_recall_strong"] == 1
    assert len(each) == 12 and all(one["claimed_active"] == one["active"] == 3 for one in each)
    changed(faces, lambda frame: frame[["image", "box", "expression"]])
    assert "neither texts nor labels" in explllm("score", "changed.parquet").error


def test_a_place_that_cannot_be_written(faces, explllm, tmp_path):
    (tmp_path / "file").write_text("")
    assert "the manifest does not exist [none]" in explllm("score", "none").error
    error = explllm("score", faces, "-o", "file/each.jsonl").error
    assert "file" in error and "Check the path, its permissions and its disk." in error


def test_what_is_read_is_not_replaced(faces, explllm, tmp_path):
    Manifest.read(faces).write(tmp_path / "faces.jsonl")
    content = (tmp_path / "faces.jsonl").read_bytes()
    (tmp_path / "link.jsonl").symlink_to("faces.jsonl")
    calls = (("faces.jsonl",), (faces, "--reference", "faces.jsonl"), ("link.jsonl",))
    for call in calls:
        done = explllm("score", *call, "-o", tmp_path / "faces.jsonl")
        assert done.status == 2 and "--out would replace a table that is read [" in done.error
    done = explllm("score", faces, "-o", faces)
    assert done.status == 2 and "--out has the extension '.parquet'" in done.error and ".jsonl" in done.error
    assert (tmp_path / "faces.jsonl").read_bytes() == content and len(Manifest.read(faces)) == 12


def test_a_judge_without_anything_to_judge_by(faces, explllm, chat_server):
    with chat_server.ChatServer(lambda received: chat_server.Reply("never asked")) as server:
        done = explllm("score", faces, "--judge", "scripted", "--base-url", server.url)
        assert "--judge needs texts to compare with" in done.error and "--reference" in done.error
    assert server.received == []


def test_action_units_of_a_reference_without_texts(faces, score, explllm):
    """``score RUN --reference M``: M has measured units and no texts; grounding is measured and nothing is judged."""
    direct, _ = score(faces)
    manifest = changed(faces, lambda frame: frame.drop(columns=["cot", "cot_source"]))
    alone = faces.with_name("alone.parquet")
    Manifest(Manifest.read(faces).frame.drop(columns="action_units"), faces.parent).write(alone)
    without, _ = score(alone)
    assert without["grounding_f1"] is without["grounding_gain"] is None
    joined, _ = score(alone, "--reference", manifest)
    assert joined == direct and "judge" not in joined
    assert joined["grounding_gain_faces"] == 12 and joined["self_contradiction"] == 0
    low, high = joined["grounding_gain_interval"]
    # The two faces of each class have the same action units here, so their texts may be swapped without loss.
    assert low <= joined["grounding_gain"] <= high and abs(joined["grounding_gain"]) < 0.1
    shown = explllm("score", alone, "--reference", manifest).out
    assert all(f"{value:.3f}" in shown for value in (joined["grounding_gain"], low, high)) and "grounding" in shown


def test_weights_and_thresholds_of_units(faces, score, explllm, tmp_path):
    """Units that are not trusted do not count, and weak intensities are not active."""
    trusted = [f"{name},{0 if name == 'Nose Wrinkle' else 0.5},0.05" for name in NAMES]
    (tmp_path / "same.csv").write_text("\n".join(["unit,weight,threshold", *trusted[:23]]))
    plain, weighted = score(faces)[0], score(faces, "--reliability", "same.csv")[0]
    assert weighted["grounding_f1"] == 1 and plain["grounding_f1"] == 1
    rows = [line.replace(",0.05", ",0.6") if line.startswith("Jaw Drop") else line for line in trusted[:23]]
    (tmp_path / "strict.csv").write_text("\n".join(["unit,weight,threshold", *rows]))
    strict = score(faces, "--reliability", "strict.csv")[0]
    active = np.array([*Manifest.read(faces).frame["action_units"]]) > 0
    drops, untrusted = active[:, 8].sum(), active[:, 23].sum()
    assert drops and strict["grounding_precision"] == pytest.approx(1 - drops / (active.sum() - untrusted))
    (tmp_path / "wrong.csv").write_text("unit,weight,threshold\nJaw Drop,2,0.1\n")
    assert (
        "Jaw Drop has a value outside [0, 1] [wrong.csv, line 2]"
        in explllm("score", faces, "--reliability", "wrong.csv").error
    )
    made = explllm("cot", "build", faces, "-o", "out.jsonl", "--offline", "--reliability", "strict.csv")
    assert "action units that are not trusted: Nose Wrinkle" in made.err
    table = Manifest.read(tmp_path / "out.jsonl").frame
    assert set(table["action_units_missing"]) == {"Nose Wrinkle"}
    assert {units[8] for units in table["action_units"]} == {0.0}
    assert not {8, 23} & {claim.unit for text in table["cot"] for claim in claims(text)}


def test_the_label_said_first_in_other_words(faces, score):
    words = {"Happiness": "happy", "Sadness": "Sad", "Surprise": "surprised"}
    table = changed(faces, lambda frame: frame.assign(predicted=frame["expression"].replace(words)))
    figures, _ = score(table)
    assert figures["agreement"] == figures["recognition"]["accuracy"] == 1


def test_several_faces_of_one_image(faces, score, explllm):
    """They are joined by their boxes; a name alone joins only where it names one face."""
    figures, each = score(faces, "--reference", faces)
    assert figures["exp_cot_score"]["score"] == 1 and figures["without_reference"] == 0
    assert len({(one["image"], tuple(one["box"])) for one in each}) == 12
    first = lambda frame: frame[frame.index % 2 == 0].drop(columns="box")  # noqa: E731
    changed(faces, first)
    assert "no image of" in explllm("score", "changed.parquet", "--reference", faces).error
    moved = lambda frame: frame.assign(box=[[1, 2, 3, 4] if row == 0 else box for row, box in frame["box"].items()])  # noqa: E731
    figures, _ = score(changed(faces, moved), "--reference", faces)
    assert figures["without_reference"] == 1 and figures["exp_cot_score"]["count"] == 11


def test_a_budget_that_ends(faces, score, explllm, chat_server):
    """What was judged before is printed and written, and not paid for again."""
    with chat_server.ChatServer(lambda received: chat_server.Reply(GOOD, usage=(1000, 20))) as server:
        asked = ("--reference", faces, "--judge", "scripted", "--base-url", server.url, "--concurrency", 1)
        assert "price_in" in explllm("score", faces, *asked, "--max-cost", 1).error
        prices = ("--price-in", 100, "--price-out", 100)
        figures, each = score(faces, *asked, *prices, "--max-cost", 0.7, status=1)
        judged = [one for one in each if "score" in one]
        assert 0 < len(judged) == len(server.received) == figures["exp_cot_score"]["count"] < 12
        assert figures["not_judged"] == 12 - len(judged) and figures["judge_cost"] == pytest.approx(0.102 * len(judged))
        assert all("the budget of --max_cost is used up" in one["failed"] for one in each if "score" not in one)
        said = " ".join(explllm("score", faces, *asked, *prices, "--max-cost", 0.7, "-o", "each.jsonl").out.split())
        assert f"not judged: {12 - len(judged)}" in said and "budget" in said
        figures, each = score(faces, *asked, *prices, "--max-cost", 5)
        assert figures["exp_cot_score"]["count"] == len(server.received) == 12


def test_a_server_that_refuses_in_the_middle(faces, score, chat_server):
    fault = chat_server.Reply("You exceeded your quota.", status=429, error={"code": "insufficient_quota"})
    script = lambda received: chat_server.Reply(GOOD) if received.number < 5 else fault  # noqa: E731
    with chat_server.ChatServer(script) as server:
        asked = ("--reference", faces, "--judge", "scripted", "--base-url", server.url, "--concurrency", 1)
        figures, each = score(faces, *asked, status=1)
    assert figures["exp_cot_score"]["count"] == 4 and figures["not_judged"] == 8
    assert sum("score" in one for one in each) == 4 and all("quota" in one["failed"] for one in each[4:])


def test_nothing_judged_is_no_number(faces, explllm, score, chat_server):
    """NaN is no JSON."""
    fault = chat_server.Reply("You exceeded your quota.", status=429, error={"code": "insufficient_quota"})
    with chat_server.ChatServer(lambda received: fault) as server:
        asked = ("--reference", faces, "--judge", "scripted", "--base-url", server.url)
        done = explllm("score", faces, *asked, "--json")
        assert done.status == 1 and "NaN" not in done.out
        figures = json.loads(done.out)
        assert "exp_cot_score" not in figures and figures["not_judged"] == 12
        said = explllm("score", faces, *asked)
        assert said.status == 1 and "not judged: 12 (" in said.out and "nan" not in said.out


def test_a_ledger_for_each_table_and_judge(faces, explllm, chat_server, tmp_path):
    """Else a budget would count what another table or judge has cost, or a baseline."""
    shutil.copy(faces, tmp_path / "more.parquet")
    prices = ("--price-in", 100, "--price-out", 100)
    reply = chat_server.Reply(GOOD, usage=(1000, 20))
    with chat_server.ChatServer(lambda received: reply, models=("scripted", "org/other")) as server:
        asked = ("--reference", faces, "--base-url", server.url, *prices, "--json")
        for table in ("faces.parquet", "more.parquet"):
            for judge, options in (("scripted", ()), ("org/other", ()), ("scripted", ("-o", "scores/faces.jsonl"))):
                done = explllm("score", table, *asked, "--judge", judge, *options)
                assert json.loads(done.out)["judge_cost"] == pytest.approx(12 * 0.102)
        explllm("score", "faces.parquet", *asked, "--judge", "scripted")
    assert len(server.received) == 72
    folders = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("ledger.sqlite"))
    assert folders == [
        *("faces.org_other.run", "faces.scripted.run", "more.org_other.run", "more.scripted.run"),
        *("scores/faces.scripted.run", "scores/more.scripted.run"),
    ]


def test_files_of_the_same_name_in_other_folders_are_other_faces(faces, explllm, score):
    def named(folder):
        def change(frame):
            frame = frame[frame.index % 2 == 0].drop(columns="box")
            return frame.assign(image=[f"{folder}{image}" for image in frame["image"]])

        return change

    changed(faces, named("3/")).rename(faces.with_name("three.parquet"))
    changed(faces, named("1/"))
    assert "no image of" in explllm("score", "changed.parquet", "--reference", "three.parquet").error
    # The released lists hold no more than the file's name.
    changed(faces, named("")).rename(faces.with_name("bare.parquet"))
    for one, other in (("three.parquet", "bare.parquet"), ("bare.parquet", "three.parquet")):
        figures, _ = score(one, "--reference", other)
        assert figures["joined_by_file_name"] == figures["exp_cot_score"]["count"] == 6
        assert "joined by file name alone: 6" in explllm("score", one, "--reference", other).out
    figures, _ = score("bare.parquet", "--reference", "bare.parquet")
    assert figures["joined_by_file_name"] == 0 and figures["exp_cot_score"]["count"] == 6


def test_names_with_brackets(faces, explllm):
    shutil.copy(faces, faces.with_name("[b]faces[red].parquet"))
    said = explllm("score", "[b]faces[red].parquet", "--reference", "[b]faces[red].parquet").out
    assert "[b]faces[red].parquet: 12 texts" in said and "[b]faces[red]" in said.split("Exp-CoT Score")[1]


def test_the_real_texts_name_what_is_strong(reference_data, score, explllm):
    """Asked: at least 0.85 of the units of 0.3 and more are named, at most a tenth of the claims is of absent ones."""
    texts = reference_data / "rafdb" / "rafdb_cot_first600.json"
    figures, _ = score(texts)
    assert figures["grounding_recall_strong"] >= 0.85 and figures["unsupported"] <= 0.1  # measured: 0.910 and 0.019
    said = explllm("score", texts).out
    assert re.search(rf"recall at intensity 0.3 and more\W+{figures['grounding_recall_strong']:.3f}", said)
    assert re.search(rf"claims of absent action units\W+{figures['unsupported']:.3f}", said)
    assert figures["recognition"]["by"] == "conclusion" and figures["recognition"]["accuracy"] > 0.97
