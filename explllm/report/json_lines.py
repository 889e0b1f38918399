"""The JSON lines of ``explllm explain --json``. ``schemas/explain.schema.json`` describes every field."""

import json
from importlib.resources import files
from typing import Any

from explllm.core.action_units import NAMES
from explllm.report.picture import PicturedFace


def explain_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line."""
    schema: dict[str, Any] = json.loads((files("explllm.report") / "schemas/explain.schema.json").read_text("utf-8"))
    return schema


def face_record(
    image: str, face: PicturedFace, detected: tuple[int, int] | None, training_data_note: str | None
) -> dict[str, Any]:
    """Return the JSON object of one explained face; see `explain_schema`.

    `detected` is the number of this face, from 1, and the number of faces in the picture; None without a detector.
    """
    review = face.review
    record: dict[str, Any] = {
        "image": image,
        "expression": face.recognition.expression,
        "probabilities": dict(face.recognition.probabilities),
        "key_observations": face.cot.key_observations,
        "interpretation": face.cot.interpretation,
        "conclusion": face.cot.conclusion,
        "text": face.cot.text,
        "concluded": review.concluded,
        "conclusion_agrees": review.conclusion_agrees,
        "self_contradictions": list(review.self_contradictions),
        "claims": [
            {
                "unit": NAMES[checked.claim.unit],
                "present": checked.claim.present,
                "intensity_word": checked.claim.intensity,
                "status": checked.status,
                "measured": checked.measured,
                "sentence": checked.claim.sentence,
            }
            for checked in review.claims
        ],
        "claims_summary": {status: review.count(status) for status in ("agrees", "contradicts", "not measured")},
        "warnings": face.all_warnings,
        "training_data_note": training_data_note,
    }
    if detected is not None:
        record |= {"faces": detected[1], "face": detected[0], "box": None if face.box is None else list(face.box)}
    if face.action_units is not None:
        record |= {
            "action_units": dict(zip(NAMES, face.action_units, strict=True)),
            "action_units_source": face.action_units_source,
        }
    return record
