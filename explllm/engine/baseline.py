"""The baseline of the paper's Table III: a multimodal model predicts the label and writes a chain of thought.

The baseline uses no measured action units and no checks: the first answer counts.
"""

import asyncio
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from explllm.core.errors import InputError, ManifestError
from explllm.core.expressions import LABEL_SETS, Expression, LabelSet
from explllm.core.manifest import Manifest, face_key
from explllm.engine.des2exp import expression_schema, read_expression
from explllm.engine.outcomes import OutcomeStore
from explllm.engine.refinement import SCHEMA, read_cot
from explllm.engine.runner import FAILED
from explllm.engine.settings import BaselineSettings
from explllm.explanations.chain_of_thought import MAX_WORDS
from explllm.faces.crop import load_face
from explllm.llm.prompt import render
from explllm.llm.reading import Ask, UnreadableAnswer, ask_until_parsed
from explllm.llm.request import ChatAnswer, ChatFailure, ChatImage, ChatMessage, ChatRequest, Refused

PROMPTS = ("baseline_label", "baseline_cot")
_JPEG_QUALITY = 95
_ATTEMPTS = 3
"""Maximum number of attempts to get a complete answer; only a truncated answer is requested again."""
_NOT_ASKED = "not asked yet"
_NO_FACE = "no face found"


@dataclass(frozen=True)
class FaceImage:
    """A face image to send to the model."""

    scope: str
    """Name of the face in the ledger."""
    image: Path
    """The image file."""
    box: Sequence[float] | None
    """x, y, width, height in pixels; None for the whole image."""


class BaselineStatus(StrEnum):
    """Final status of a face."""

    ANSWERED = "answered"
    NO_LABEL = "no label"
    REFUSED = "refused"
    FAILED = FAILED


@dataclass(frozen=True)
class BaselineOutcome:
    """The answers of the model about one face."""

    status: BaselineStatus
    """The final status."""
    answer: str | None = None
    """The first answer or refusal, verbatim but without visible reasoning; None if there is no answer."""
    expression: Expression | None = None
    """The expression that the answer names, which is not necessarily one of the classes."""
    cot: str | None = None
    """The chain of thought, with normalized titles if its three sections can be parsed, else verbatim."""
    reason: str = ""
    """What went wrong; empty if nothing did."""
    cost: float = 0.0
    """Cost of the answers in USD, including answers from earlier runs. Only the ledger counts the cost of refusals."""

    def cells(self) -> dict[str, str | float | None]:
        """Return the face's cells in the output manifest, by column."""
        return {
            "predicted": None if self.expression is None else str(self.expression),
            "answer": self.answer,
            "unreadable": self.reason if self.answer is None else None,
            "cot": self.cot,
            "cot_status": str(self.status),
            "cot_reason": self.reason or None,
            "cot_cost": self.cost,
        }


def choose_label_set(manifest: Manifest, name: str | None) -> LabelSet:
    """Return the classes to choose from, given the name of a label set.

    Without a name, the classes are the seven basic expressions, or all eight expressions if a row is labeled Contempt
    or no row has a label.

    Raises:
        ConfigError: If there is no label set with this name.
    """
    if name is not None:
        return LabelSet.by_name(name)
    labels = set(manifest.frame["expression"].dropna()) if "expression" in manifest.frame else set()
    return LABEL_SETS["affectnet7" if labels and Expression.CONTEMPT not in labels else "affectnet8"]


def face_images(manifest: Manifest, labels: LabelSet) -> Iterator[tuple[int, FaceImage]]:
    """Yield the faces to ask about, each with its zero-based row number.

    Rows with a label outside the classes are skipped, because every answer would be wrong. Rows in which detection
    found no face are skipped too, because the photograph may show anything.
    """
    images, boxes = manifest.frame["image"], manifest.frame.get("box", [None] * len(manifest))
    for row, (image, box, reason) in enumerate(zip(images, boxes, _skip_reasons(manifest, labels), strict=True)):
        if reason is None:
            yield row, FaceImage(face_key(image, box), manifest.root / image, box)


def skipped_images(manifest: Manifest, labels: LabelSet) -> dict[str, int]:
    """Return the number of rows that `face_images` skips, by reason.

    Raises:
        ManifestError: If all rows are skipped.
    """
    reasons = _skip_reasons(manifest, labels)
    counts = Counter(reason for reason in reasons if reason is not None)
    if counts.total() == len(reasons):
        if set(counts) == {_NO_FACE}:
            remedy = "Remove the column face_status if the images are already cropped faces."
            raise ManifestError("no row has a detected face", where=manifest.path, remedy=remedy)
        raise ManifestError(
            f"no row is labeled with a class of {labels.name}", where=manifest.path, remedy="Choose another label set."
        )
    return dict(counts)


def _skip_reasons(manifest: Manifest, labels: LabelSet) -> list[str | None]:
    """Return why each row is skipped, with None for the rows that are not skipped."""
    truths = manifest.frame.get("expression", [None] * len(manifest))
    other = f"label is not a class of {labels.name}"
    return [
        _NO_FACE if not_found else None if truth is None or truth in labels else other
        for not_found, truth in zip(manifest.face_not_found(), truths, strict=True)
    ]


def encode_face(face: FaceImage, settings: BaselineSettings) -> ChatImage:
    """Return a face, cropped and downsized, as a JPEG without metadata.

    Raises:
        InputError: If the image is missing or broken, or the box does not fit it.
    """
    # Convert through an array: otherwise Pillow would copy the comment of the original file.
    pixels = np.asarray(load_face(face.image, face.box, settings.margin, settings.size))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return ChatImage.of(buffer.getvalue())


async def ask_about(face: FaceImage, ask: Ask, settings: BaselineSettings) -> BaselineOutcome:
    """Ask for the label of a face and then for a chain of thought, in one conversation.

    An unreadable image and failures of single requests are recorded in the outcome. Errors that stop the whole run are
    raised.
    """
    try:
        # Run in a thread, so the event loop can handle other answers in the meantime.
        image = await asyncio.to_thread(encode_face, face, settings)
    except InputError as error:
        return BaselineOutcome(BaselineStatus.FAILED, reason=str(error))
    conversation = _Conversation(face, ask, settings)
    names = ", ".join(settings.labels)
    question = ChatMessage("user", render("explllm.engine", "baseline_label", labels=names), image)
    try:
        answer = await conversation.ask((question,), expression_schema(settings.labels))
    except Refused as refusal:
        return BaselineOutcome(BaselineStatus.REFUSED, refusal.reason, reason=f"label refused: {refusal.reason}")
    except (ChatFailure, UnreadableAnswer) as failure:
        return BaselineOutcome(BaselineStatus.FAILED, reason=f"label: {failure}", cost=conversation.cost)
    expression = read_expression(answer)
    status, reason = BaselineStatus.ANSWERED, ""
    if expression not in settings.labels:
        status, reason = BaselineStatus.NO_LABEL, f"none of the classes: {answer[:80]!r}"
    outcome = BaselineOutcome(status, answer, expression, reason=reason, cost=conversation.cost)
    if not answer:
        return outcome
    second = render("explllm.engine", "baseline_cot", labels=names, words=MAX_WORDS, target_words=MAX_WORDS * 4 // 5)
    try:
        text = await conversation.ask((question, ChatMessage("assistant", answer), ChatMessage("user", second)), SCHEMA)
    except Refused as refusal:
        status, reason = BaselineStatus.REFUSED, f"chain of thought refused: {refusal.reason}"
    except (ChatFailure, UnreadableAnswer) as failure:
        status, reason = BaselineStatus.FAILED, f"chain of thought: {failure}"
    else:
        cot = read_cot(text)
        return replace(outcome, cot=(text if cot is None else cot.text) or None, cost=conversation.cost)
    return replace(outcome, status=status, reason=reason, cost=conversation.cost)


class _Conversation:
    """Asks the two questions about one face and sums up their cost."""

    def __init__(self, face: FaceImage, ask: Ask, settings: BaselineSettings) -> None:
        self.face, self.settings = face, settings
        self.cost = 0.0
        self._ask, self._round = ask, 0

    async def ask(self, messages: tuple[ChatMessage, ...], schema: dict[str, Any]) -> str:
        """Return the first complete answer, without its visible reasoning.

        Raises:
            Refused: If the model refused to answer.
            ChatFailure: If the request failed for another reason.
            UnreadableAnswer: If all answers were truncated, even with additional tokens for reasoning.
        """
        turn, self._round = self._round, self._round + 1
        request = ChatRequest(
            scope=self.face.scope,
            purpose=PROMPTS[turn],
            round=turn,
            messages=messages,
            schema=schema,
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
        )
        try:
            # Accept every text: the first complete answer counts.
            return await ask_until_parsed(self._count_cost, request, lambda text: text, "", _ATTEMPTS)
        except UnreadableAnswer as error:
            raise UnreadableAnswer(f"{error}; raise max_tokens above {self.settings.max_tokens}") from None

    async def _count_cost(self, request: ChatRequest) -> ChatAnswer:
        answer = await self._ask(request)
        self.cost += answer.cost
        return answer


def with_answers(manifest: Manifest, outcomes: OutcomeStore, model: str, labels: LabelSet) -> Manifest:
    """Return a new manifest with the model's answers; columns with results of other models are dropped.

    ``answer`` is the verbatim answer. ``predicted`` is empty if the answer names no expression; such an answer counts
    as wrong. ``unreadable`` gives the reason if there is no answer, and rows with a reason are not scored. The reason
    is empty for rows that are skipped because of their label. The other new columns are ``label_set`` and, as in
    `explllm.engine.build.with_outcomes`, ``cot``, ``cot_source``, ``cot_status``, ``cot_reason`` and ``cot_cost``.
    """
    others = [name for name in manifest.frame if str(name).startswith("p_") or name == "cot_rounds"]
    frame = manifest.frame.drop(columns=others)
    answered = outcomes.cells(0, len(frame))
    reasons = _skip_reasons(manifest, labels)
    rows = [answered.get(row, {"unreadable": _unanswered(reason)}) for row, reason in enumerate(reasons)]
    for cells in rows:
        cells |= {"label_set": labels.name, "cot_source": model if cells.get("cot") else None}
    for name in _COLUMNS:
        dtype = "Float64" if name == "cot_cost" else object
        frame[name] = pd.Series([cells.get(name) for cells in rows], index=frame.index, dtype=dtype)
    return Manifest(frame, manifest.root, manifest.path)


_COLUMNS = (
    *("predicted", "answer", "label_set", "unreadable"),
    *("cot", "cot_source", "cot_status", "cot_reason", "cot_cost"),
)
"""The columns that `with_answers` adds, in this order."""


def _unanswered(reason: str | None) -> str | None:
    # A label outside the classes is not a failure: evaluations count these rows by label.
    return _NOT_ASKED if reason is None else _NO_FACE if reason == _NO_FACE else None
