"""The results of ``explllm recognize`` and ``explllm explain`` as JSON objects and as rows of a table.

``schemas/explain.schema.json`` describes every field.
"""

import json
from importlib.resources import files
from typing import Any

from explllm.core.action_units import FACS_CODES, NAMES
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.review import Review
from explllm.report.picture import PicturedFace


def explain_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line: a face, a picture without a face, or an unreadable picture."""
    schema: dict[str, Any] = json.loads((files("explllm.report") / "schemas/explain.schema.json").read_text("utf-8"))
    return schema


def face_record(
    image: str, face: PicturedFace, detected: tuple[int, int] | None, training_data_note: str | None
) -> dict[str, Any]:
    """Return the JSON object of one face; see `explain_schema`.

    `detected` is this face's number, counted from 1, and the number of faces in the picture; None without a detector.
    """
    record: dict[str, Any] = {
        "image": image,
        "expression": str(face.recognition.expression),
        "confidence": face.recognition.confidence,
        "probabilities": {str(label): share for label, share in face.recognition.probabilities.items()},
        **(_explanation(face.cot, face.review) if face.cot and face.review else {}),
        "warnings": face.all_warnings,
        "training_data_note": training_data_note,
    }
    if detected is not None:
        record |= {"faces": detected[1], "face": detected[0], "box": None if face.box is None else list(face.box)}
    if face.action_units is not None:
        record |= {
            "action_units": dict(zip(NAMES, face.action_units, strict=True)),
            "action_units_facs": FACS_CODES,
            "action_units_source": face.action_units_source,
        }
    return record


def table_row(record: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object of a face as a row of a table, with one value per column.

    Probabilities become the columns ``p_NAME``, the box becomes ``x``, ``y``, ``w`` and ``h``, each action unit becomes
    a column, and claims become one count per status. Warnings and self-contradictions are joined; the table of FACS
    codes is omitted.
    """
    row: dict[str, Any] = {}
    for key, value in record.items():
        if key == "probabilities":
            row |= {f"p_{label}": share for label, share in value.items()}
        elif key == "box":
            row |= dict(zip("xywh", value, strict=True))
        elif key == "claims_summary":
            row |= {f"claims {status}": count for status, count in value.items()}
        elif key == "action_units":
            row |= value
        elif key in ("warnings", "self_contradictions"):
            row[key] = " ".join(value) if key == "warnings" else ", ".join(value)
        elif key not in ("claims", "action_units_facs"):
            row[key] = value
    return row


def _explanation(cot: ChainOfThought, review: Review) -> dict[str, Any]:
    return {
        "key_observations": cot.key_observations,
        "interpretation": cot.interpretation,
        "conclusion": cot.conclusion,
        "text": cot.text,
        "concluded": review.concluded,
        "conclusion_agrees": review.conclusion_agrees,
        "self_contradictions": list(review.self_contradictions),
        "claims": [
            {
                "unit": NAMES[checked.claim.unit],
                "facs": FACS_CODES[NAMES[checked.claim.unit]],
                "present": checked.claim.present,
                "intensity_word": checked.claim.intensity,
                "status": checked.status,
                "measured": checked.measured,
                "sentence": checked.claim.sentence,
            }
            for checked in review.claims
        ],
        "claims_summary": {status: review.count(status) for status in ("agrees", "contradicts", "not measured")},
    }
