"""The JSON lines of `explain`, against their documented schema."""

import json

import jsonschema
import pytest
from PIL import Image

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.generation import Recognition
from explllm.report.json_lines import explain_schema, face_record, table_row
from explllm.report.picture import PicturedFace


@pytest.fixture
def face():
    cot = ChainOfThought.from_sections(
        "The lip corners are strongly pulled up. The nose is not wrinkled. The cheeks are puffed.",
        "The wrinkled nose shows disgust.",
        "It is disgust.",
    )
    units = [0.9 if "Lip Corner Pull" in name else None if name == "Cheeks Puff" else 0.0 for name in NAMES]
    recognition = Recognition.of((Expression.HAPPINESS, Expression.DISGUST), (0.75, 0.25))
    return PicturedFace(
        Image.new("RGB", (9, 9)), (1.0, 2.0, 3.0, 4.0), recognition, cot, units, "a model", ["Blurred."]
    )


def test_a_record(face):
    record = json.loads(json.dumps(face_record("a.jpg", face, (1, 2), "The faces are drawn.")))
    jsonschema.validate(record, explain_schema())
    claims = {(claim["unit"], claim["present"]): claim["status"] for claim in record["claims"]}
    assert claims["Left Lip Corner Pull", True] == claims["Nose Wrinkle", False] == "agrees"
    assert claims["Nose Wrinkle", True] == "contradicts" and claims["Cheeks Puff", True] == "not measured"
    assert sum(record["claims_summary"].values()) == len(record["claims"])
    assert record["claims"][0]["intensity_word"] == "strongly" and record["claims"][0]["measured"] == 0.9
    assert {claim["unit"]: claim["facs"] for claim in record["claims"]}["Cheeks Puff"] == "AD34"
    assert record["action_units_facs"]["Left Brow Raise"] == "AU1+2"
    assert record["concluded"] == "Disgust" and record["conclusion_agrees"] is False
    assert record["self_contradictions"] == ["Nose Wrinkle"]
    assert record["warnings"] == [
        "Blurred.",
        "The model recognized Happiness, but the text's conclusion names Disgust.",
        "The text contradicts itself about: Nose Wrinkle (AU9).",
    ]
    assert record["box"] == [1.0, 2.0, 3.0, 4.0] and record["training_data_note"] == "The faces are drawn."


def test_a_row_of_a_table(face):
    record = face_record("a.jpg", face, (1, 2), None)
    row = table_row(record)
    assert not [value for value in row.values() if isinstance(value, list | dict)]
    assert (row["x"], row["h"], row["p_Disgust"], row["claims contradicts"]) == (1.0, 4.0, 0.25, 1)
    assert row["Left Lip Corner Pull"] == 0.9 and row["self_contradictions"] == "Nose Wrinkle"
    assert row["warnings"].startswith("Blurred. The model recognized")


def test_the_schema_is_strict(face):
    record = face_record("a.jpg", face, None, None)
    jsonschema.validate(record, explain_schema())
    for other in ({"faces": 0}, {"error": "unreadable image"}):
        jsonschema.validate({"image": "a.jpg", **other}, explain_schema())
    for wrong in ({"expression": "Joy"}, {"claims": None}, {"other": 1}, {"probabilities": {"Fear": 2}}, {"faces": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**record, **wrong}, explain_schema())


def test_the_documentation_names_every_field(repository):
    page = (repository / "docs/pages/howto/explain_json.md").read_text(encoding="utf-8")
    fields = explain_schema()["$defs"]["face"]["properties"]
    assert [name for name in fields if f"`{name}`" not in page] == []
