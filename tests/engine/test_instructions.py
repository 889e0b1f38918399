"""FEA instruction data: every accepted answer agrees with label and units, and no answer is paid for twice."""

import json
import re
import sqlite3

import pytest

from explllm.core.action_units import FEAFA, NAMES
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.folder import read_folder
from explllm.explanations.instructions import NO_UNITS, instruction_problems, write_instructions
from explllm.explanations.rule_writer import RuleWriter
from explllm.llm.ledger import Ledger

STEPS = ((0.05, None), (0.25, "slight"), (0.45, "moderate"), (0.65, "marked"), (0.85, "strong"), (2, "extreme"))
PARTS = {"Eye": "eye", "Lid": "eyelid", "Brow": "brow", "Jaw": "jaw", "Lip": "lip", "Chin": "chin", "Cheeks": "cheek"}
OTHERS = {label: [str(other) for other in Expression if other != label] for label in Expression}


def disagreements(row):
    """Compare a row's answers with its label and units by patterns, without the library's lexicon."""
    units = [value or 0.0 for value in row.action_units]
    grades = {NAMES[place].lower(): next(w for top, w in STEPS if value < top) for place, value in enumerate(units)}
    active = {name: grade for name, grade in grades.items() if grade}
    listed = re.findall(r"(\w+) ([a-z ]+) \(((?:AU\d+(?: and )?)+)\)", row.fea_units)
    if {name: grade for grade, name, _ in listed} != active or (row.fea_units == NO_UNITS) != (not active):
        yield "units"
    for _, name, numbers in listed:
        facs = FEAFA[[other.lower() for other in NAMES].index(name)].facs
        if [int(number) for number in re.findall(r"\d+", numbers)] != list(facs):
            yield "numbers"
    if not row.fea_description.startswith(f"{row.expression}. "):
        yield "label of the description"
    last = re.split(r"(?<=\.) ", row.fea_reasoning)[-1].lower()
    if row.expression.lower() not in last or any(other.lower() in last for other in OTHERS[row.expression]):
        yield "label of the reasoning"
    for text in (row.fea_description, row.fea_reasoning):
        for place, value in enumerate(units):
            part = next((word for kind, word in PARTS.items() if kind in NAMES[place]), "nose")
            if value >= 0.3 and part not in text.lower():
                yield f"{NAMES[place]} in {text}"


@pytest.mark.parametrize(
    ("step", "count"), [(40, 93), pytest.param(3, 1229, marks=pytest.mark.slow)], ids=["every 40th", "every 3rd"]
)
def test_real_faces_offline(reference_data, explllm, tmp_path, step, count):
    faces = read_folder(reference_data / "faces")
    frame = faces.frame[faces.frame["action_units"].notna()].iloc[::step]
    Manifest(frame, faces.root).write(tmp_path / "faces.parquet")
    done = explllm("fea", "build", "faces.parquet", "-o", "out.parquet", "--offline")
    assert done.status == 0, done.err
    frame = Manifest.read("out.parquet").frame
    accepted = frame[frame["fea_status"] == "accepted"]
    assert len(accepted) == count and set(accepted["fea_source"]) == {"offline"}
    assert {row.image: found for row in accepted.itertuples() if (found := list(disagreements(row)))} == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_units_is_checked(name):
    units = [0.0] * 24
    units[NAMES.index(name)] = 0.5
    texts = write_instructions(RuleWriter(), units, Expression.FEAR)
    for kind, text in texts.items():
        assert instruction_problems(kind, text, units, Expression.FEAR) == []
    listed = texts["units"]
    other = "nose wrinkle (AU9)" if name != "Nose Wrinkle" else "jaw drop (AU26)"
    for wrong, words in (
        (listed.replace("AU", "AU9"), "is listed, but no such unit is active"),
        (NO_UNITS, "is not mentioned"),
        (listed.replace(".", f", slight {other}."), "its intensity is 0"),
        (listed.replace("marked", "slight"), "a word for the strength"),
        (re.sub(r" \(.*\)", "", listed), "without its FACS number"),
    ):
        assert any(words in problem for problem in instruction_problems("units", wrong, units, Expression.FEAR)), wrong


def test_wrong_labels_are_found():
    units = [0.0] * 24
    units[8] = 0.5
    texts = write_instructions(RuleWriter(), units, Expression.FEAR)
    assert instruction_problems("description", texts["description"], units, Expression.ANGER) == [
        "it does not begin with the label: Anger.",
        "it describes Fear",
    ]
    assert instruction_problems("reasoning", texts["reasoning"], units, Expression.ANGER) == [
        "its last sentence does not name Anger",
        "it describes Fear",
    ]
    assert any(
        "words, more than 5" in one
        for one in instruction_problems("reasoning", texts["reasoning"], units, Expression.FEAR, 5)
    )


SMILE = "Active action units: strong left lip corner pull (AU12), strong right lip corner pull (AU12)"
CONTRADICTIONS = [
    ("description", "Happiness. The lip corners are pulled up, and it is clearly anger.", "it describes Anger"),
    ("description", "Happiness. Both lip corners are very slightly pulled up.", "a word for the strength"),
    ("description", "Happiness. The lip corners are pulled up, the jaw widely dropped.", "a word for the strength"),
    (
        "description",
        "Happiness. The lip corners are pulled up, the brows are not lowered.",
        "brow lower (0.20) is denied",
    ),
    ("description", "Happiness. Les coins des lèvres sont tirés.", "it states no facial movement"),
    ("reasoning", "The lip corners are pulled up. The expression is anger. This is happiness.", "it describes Anger"),
    ("units", f"{SMILE}.", "left brow lower (0.20) is not mentioned"),
    ("units", f"{SMILE}, slight jaw drop (AU26).", "AU26 is listed, but no such unit is active"),
    ("units", f"{SMILE}, extreme nose wrinkle (AU9).", "AU9 is listed, but no such unit is active"),
]


@pytest.mark.parametrize(("kind", "text", "problem"), CONTRADICTIONS)
def test_contradictions_are_found(kind, text, problem):
    units = dict.fromkeys(NAMES, 0.0) | {"Left Lip Corner Pull": 0.7, "Right Lip Corner Pull": 0.7}
    units |= {"Left Brow Lower": 0.2, "Right Brow Lower": 0.2, "Jaw Drop": 0.01, "Nose Wrinkle": None}
    found = instruction_problems(kind, text, list(units.values()), Expression.HAPPINESS)
    assert any(problem in one for one in found), found


def test_with_a_model(explllm, server, write_faces, tmp_path, key):
    write_faces(tmp_path / "faces.parquet", 12)
    command = ("fea", "build", "faces.parquet", "-o", "out.parquet", "--model", "scripted", "--base-url", server.url)
    assert explllm(*command).status == 0
    frame = Manifest.read("out.parquet").frame
    assert set(frame["fea_status"]) == {"accepted"} and set(frame["fea_source"]) == {"scripted"}
    assert {row.image: found for row in frame.itertuples() if (found := list(disagreements(row)))} == {}
    # Answers that disagreed were asked for again, with the problems.
    assert len(server.received) == 36 + frame["fea_rounds"].sum() > 36
    asked = len(server.received)
    assert explllm(*command).status == 0 and len(server.received) == asked
    # Without another attempt, they are rejected with the reason.
    done = explllm(*command[:4], "strict.parquet", *command[5:], "--max-refinements", 1)
    strict = Manifest.read("strict.parquet").frame
    failed = strict["fea_status"] == "failed"
    assert done.status == 1 and failed.any() and not failed.all()
    assert strict.loc[failed, "fea_reason"].str.contains("does not begin with the label").all()
    assert strict.loc[failed, "fea_description"].isna().all()


def test_another_kind_of_text_is_not_replaced(explllm, write_faces, tmp_path):
    write_faces(tmp_path / "faces.parquet", 3)
    command = ("build", "faces.parquet", "-o", "out.parquet", "--offline")
    assert explllm("cot", *command).status == 0
    error = explllm("fea", *command).error
    assert "made with chains of thought, not with FEA instructions" in error and "--overwrite" in error
    assert explllm("fea", *command, "--overwrite").status == 0
    assert "made with FEA instructions, not with chains of thought" in explllm("cot", *command).error
    # Earlier versions recorded no kind: their runs can be resumed.
    progress = tmp_path / "out.run/progress.json"
    fields = json.loads(progress.read_text())
    del fields["kind"]
    progress.write_text(json.dumps(fields))
    assert explllm("fea", *command).status == 0 and json.loads(progress.read_text())["kind"] == "FEA instructions"


def test_killed_and_resumed(chat_server, model_script, write_faces, tmp_path, process, wait_for):
    write_faces(tmp_path / "faces.parquet", 20)
    with chat_server.ChatServer(model_script.slow) as slow:
        command = ("fea", "build", tmp_path / "faces.parquet", "-o", tmp_path / "out.parquet", "--model", "scripted")
        command += ("--base-url", slow.url, "--concurrency", 4)
        running = process(*command)
        wait_for(lambda: slow.answered >= 20)
        running.kill()
        running.wait()
        running = process(*command)
        out, _ = running.communicate(timeout=120)
    assert running.returncode == 0, out
    frame = Manifest.read(tmp_path / "out.parquet").frame
    assert frame["fea_status"].tolist() == ["accepted"] * 20
    keys = [received.key for received in slow.received]
    assert len(keys) == len(set(keys))
    with Ledger(tmp_path / "out.run/ledger.sqlite") as ledger:
        assert ledger.totals().open == 0
    base = sqlite3.connect(tmp_path / "out.run/ledger.sqlite")
    answered = base.execute("SELECT request FROM attempts WHERE outcome = 'answered'").fetchall()
    assert len(answered) == len(set(answered)) > 60
