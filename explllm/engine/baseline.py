"""The baseline of the paper's Table III: a model that sees the picture is asked for label and chain of thought.

Nothing is measured and nothing is checked before it is accepted: the first answer counts, whatever it is.
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
from explllm.engine.face_queue import FAILED
from explllm.engine.outcomes import Outcomes
from explllm.engine.refinement import SCHEMA, read_cot
from explllm.explanations.chain_of_thought import MAX_WORDS
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.llm.prompt import render
from explllm.llm.reading import Ask, UnreadableAnswer, ask_until_read
from explllm.llm.request import ChatAnswer, ChatFailure, ChatMessage, ChatPicture, ChatRequest, Refused

PROMPTS = ("baseline_label", "baseline_cot")
LARGEST = 512
"""Pixels of width and height that are sent at most: one tile of OpenAI's models (guide "Images and vision")."""
_QUALITY = 95
_ATTEMPTS = 3
"""Times that a question is asked whose answer is cut off: that is a matter of our limit, not of the model's answer."""
_NOT_ASKED = "not asked yet"
_NO_FACE = "no face found"


@dataclass(frozen=True)
class BaselineSettings:
    """What is shown and asked."""

    labels: LabelSet
    """The possible answers."""
    largest: int = LARGEST
    """Pixels of width and height of the picture at most; smaller ones are sent as they are."""
    margin: float = DEFAULT_MARGIN
    """Around a box, as a share of its longer side."""
    max_tokens: int = 512
    """Longest answer, in tokens, without hidden reasoning."""
    temperature: float = 0.0
    """Of sampling."""


@dataclass(frozen=True)
class PicturedFace:
    """One face, as far as the model may know it: its picture."""

    scope: str
    """Its name in the ledger."""
    image: Path
    """The image's file."""
    box: Sequence[float] | None
    """x, y, width, height in pixels; None for the whole image."""


class BaselineStatus(StrEnum):
    """How a face's work ended."""

    ANSWERED = "answered"
    NO_LABEL = "no label"
    REFUSED = "refused"
    FAILED = FAILED


@dataclass(frozen=True)
class Answered:
    """What the model said of one face."""

    status: BaselineStatus
    """How it ended."""
    answer: str | None = None
    """The first answer, or refusal, word for word, without thoughts said aloud; None if none came."""
    expression: Expression | None = None
    """The expression that it names; it may be none of the classes."""
    cot: str | None = None
    """The chain of thought, in the usual form where its three sections can be told apart, else word for word."""
    reason: str = ""
    """What was wrong; empty where nothing was."""
    cost: float = 0.0
    """What the answers cost, in USD, those of earlier runs included. Of a refusal the ledger alone knows the cost."""

    def cells(self) -> dict[str, str | float | None]:
        """Return what the written manifest says of the face, by column."""
        return {
            "predicted": None if self.expression is None else str(self.expression),
            "answer": self.answer,
            "unreadable": self.reason if self.answer is None else None,
            "cot": self.cot,
            "cot_status": str(self.status),
            "cot_reason": self.reason or None,
            "cot_cost": self.cost,
        }


def label_set_of(manifest: Manifest, name: str | None) -> LabelSet:
    """Return the classes to answer among.

    Args:
        manifest: The table.
        name: A data set's name; None for the seven basic expressions, or all eight where a row is labeled Contempt or
            none is labeled.

    Returns:
        The classes.

    Raises:
        ConfigError: If there is no set of that name.
    """
    if name is not None:
        return LabelSet.by_name(name)
    said = set(manifest.frame["expression"].dropna()) if "expression" in manifest.frame else set()
    return LABEL_SETS["affectnet7" if said and Expression.CONTEMPT not in said else "affectnet8"]


def pictured_faces(manifest: Manifest, labels: LabelSet) -> Iterator[tuple[int, PicturedFace]]:
    """Yield the faces that a model is asked about.

    Args:
        manifest: The table.
        labels: The classes; faces that are labeled otherwise could only be answered wrong, and are left out. So are
            rows in which no face was found: the whole photograph is nobody's face, and may show much else.

    Yields:
        Row, counted from 0, and face.
    """
    images, boxes = manifest.frame["image"], manifest.frame.get("box", [None] * len(manifest))
    for row, (image, box, lack) in enumerate(zip(images, boxes, _lacks(manifest, labels), strict=True)):
        if lack is None:
            yield row, PicturedFace(face_key(image, box), manifest.root / image, box)


def left_out(manifest: Manifest, labels: LabelSet) -> dict[str, int]:
    """Count the rows that a model is not asked about.

    Args:
        manifest: The table.
        labels: The classes, as for `pictured_faces`.

    Returns:
        Rows by why.

    Raises:
        ManifestError: If that is all of them.
    """
    lacks = _lacks(manifest, labels)
    counts = Counter(lack for lack in lacks if lack is not None)
    if counts.total() == len(lacks):
        if set(counts) == {_NO_FACE}:
            remedy = "Leave the column face_status out if the images are faces as they are."
            raise ManifestError("in no row a face was found", where=manifest.path, remedy=remedy)
        raise ManifestError(
            f"no row is labeled with a class of {labels.name}", where=manifest.path, remedy="Give another --label-set."
        )
    return dict(counts)


def _lacks(manifest: Manifest, labels: LabelSet) -> list[str | None]:
    """Return why a row is left out; None where it is not."""
    truths = manifest.frame.get("expression", [None] * len(manifest))
    other = f"labeled with no class of {labels.name}"
    return [
        _NO_FACE if faceless else None if truth is None or truth in labels else other
        for faceless, truth in zip(manifest.face_not_found(), truths, strict=True)
    ]


def picture_of(face: PicturedFace, settings: BaselineSettings) -> ChatPicture:
    """Read a face, cut out and made smaller as the settings say, as a JPEG without any metadata.

    Raises:
        InputError: If the image is missing or broken, or the box does not fit it.
    """
    # Through an array, because Pillow would write the comment of the file that was read into the new one.
    pixels = np.asarray(load_face(face.image, face.box, settings.margin, settings.largest))
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=_QUALITY)
    return ChatPicture.of(held.getvalue())


async def ask_about(face: PicturedFace, ask: Ask, settings: BaselineSettings) -> Answered:
    """Show a face, and ask for its label and then for the chain of thought, in one conversation.

    Args:
        face: The face.
        ask: Who answers.
        settings: What is shown and asked.

    Returns:
        What was said. Failures of single requests end in it; whatever stops the whole run is raised.
    """
    try:
        # In a thread: others' answers come in meanwhile.
        picture = await asyncio.to_thread(picture_of, face, settings)
    except InputError as error:
        return Answered(BaselineStatus.FAILED, reason=str(error))
    conversation = _Conversation(face, ask, settings)
    names = ", ".join(settings.labels)
    question = ChatMessage("user", render("explllm.engine", "baseline_label", labels=names), picture)
    try:
        said = await conversation.ask((question,), expression_schema(settings.labels))
    except Refused as refusal:
        return Answered(BaselineStatus.REFUSED, refusal.reason, reason=f"label refused: {refusal.reason}")
    except (ChatFailure, UnreadableAnswer) as failure:
        return Answered(BaselineStatus.FAILED, reason=f"label: {failure}", cost=conversation.cost)
    found = read_expression(said)
    status, reason = BaselineStatus.ANSWERED, ""
    if found not in settings.labels:
        status, reason = BaselineStatus.NO_LABEL, f"none of the classes: {said[:80]!r}"
    answered = Answered(status, said, found, reason=reason, cost=conversation.cost)
    if not said:
        return answered
    again = render("explllm.engine", "baseline_cot", labels=names, words=MAX_WORDS, margin=MAX_WORDS * 4 // 5)
    try:
        text = await conversation.ask((question, ChatMessage("assistant", said), ChatMessage("user", again)), SCHEMA)
    except Refused as refusal:
        status, reason = BaselineStatus.REFUSED, f"chain of thought refused: {refusal.reason}"
    except (ChatFailure, UnreadableAnswer) as failure:
        status, reason = BaselineStatus.FAILED, f"chain of thought: {failure}"
    else:
        cot = read_cot(text)
        return replace(answered, cot=(text if cot is None else cot.text) or None, cost=conversation.cost)
    return replace(answered, status=status, reason=reason, cost=conversation.cost)


class _Conversation:
    """Asks the two questions about one face, and adds up what they cost."""

    def __init__(self, face: PicturedFace, ask: Ask, settings: BaselineSettings) -> None:
        self.face, self.settings = face, settings
        self.cost = 0.0
        self._ask, self._round = ask, 0

    async def ask(self, messages: tuple[ChatMessage, ...], schema: dict[str, Any]) -> str:
        """Return the first answer that comes to its end, without thoughts said aloud before it.

        Raises:
            Refused: The model would not answer.
            ChatFailure: The request failed otherwise.
            UnreadableAnswer: Every answer was too long, though the client gives more room to those that think unseen.
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
            # Whatever it says, the first whole answer counts.
            return await ask_until_read(self._paid, request, lambda text: text, "", _ATTEMPTS)
        except UnreadableAnswer as error:
            raise UnreadableAnswer(f"{error}; give more than {self.settings.max_tokens} --max-tokens") from None

    async def _paid(self, request: ChatRequest) -> ChatAnswer:
        answer = await self._ask(request)
        self.cost += answer.cost
        return answer


def with_answers(manifest: Manifest, outcomes: Outcomes, model: str, labels: LabelSet) -> Manifest:
    """Return the manifest with what the model said.

    Args:
        manifest: The table.
        outcomes: The outcomes.
        model: The model's name, for ``cot_source``.
        labels: The classes.

    Returns:
        A new manifest. ``predicted``, the expression that was named, is empty where none was: such an answer is wrong;
        ``answer`` has its words. ``unreadable`` says why there is no answer, and such a row does not count. Further
        ``label_set``, and as `explllm.engine.build.with_outcomes` has them ``cot``, ``cot_source``, ``cot_status``,
        ``cot_reason``, ``cot_cost``. Figures of other models are left out.
    """
    others = [name for name in manifest.frame if str(name).startswith("p_") or name == "cot_rounds"]
    frame = manifest.frame.drop(columns=others)
    told = outcomes.cells(0, len(frame))
    rows = [told.get(row, {"unreadable": _not_asked(lack)}) for row, lack in enumerate(_lacks(manifest, labels))]
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
"""What `with_answers` adds, in this order."""


def _not_asked(lack: str | None) -> str | None:
    # Another label is no reason: such rows are counted by it.
    return _NOT_ASKED if lack is None else _NO_FACE if lack == _NO_FACE else None
