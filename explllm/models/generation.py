"""Inference: likelihoods of all labels in one pass, and chains of thought by greedy decoding.

Shape legend:
    B batch, K labels, U action units, H and W image height and width
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from numbers import Integral
from typing import TYPE_CHECKING, cast

import torch
from torch.distributed.fsdp import FSDPModule

from explllm.conversation.messages import Messages, explanation, recognition
from explllm.core.errors import CheckpointError, ConfigError
from explllm.core.expressions import Expression
from explllm.explanations.html import bars_html
from explllm.models.decoding import Decoder, Row, last_positions, prompt_logits
from explllm.models.fast_linear import fast_linear
from explllm.models.label_scoring import PackedLabels as PackedLabels
from explllm.models.label_scoring import pack_labels, pack_unit_states, score_labels, score_packed, supports_packing
from explllm.models.parts import inference

if TYPE_CHECKING:
    import pandas as pd

    from explllm.models.explllm import ExpLLM


@dataclass(frozen=True)
class Recognition:
    """The expression of one face."""

    expression: Expression
    """The most likely class."""
    probabilities: dict[Expression, float]
    """The probability of each class, in index order. They sum to 1."""

    @classmethod
    def of(cls, labels: Sequence[Expression], probabilities: Sequence[float]) -> "Recognition":
        """Create a recognition from classes and their probabilities. In a tie, the first class wins."""
        pairs = dict(zip(labels, probabilities, strict=True))
        return cls(max(pairs, key=pairs.__getitem__), pairs)

    @property
    def confidence(self) -> float:
        """The probability of `expression`."""
        return self.probabilities[self.expression]

    def _repr_html_(self) -> str:
        """Return the probabilities as HTML, which notebooks display."""
        return bars_html(sorted(self.probabilities.items(), key=lambda pair: -pair[1]))


class Recognitions(list[Recognition]):
    """The expressions of several faces."""

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per face: ``expression``, ``confidence``, and ``p_NAME`` for each class."""
        import pandas as pd

        return pd.DataFrame(
            {
                "expression": str(one.expression),
                "confidence": one.confidence,
                **{f"p_{label}": probability for label, probability in one.probabilities.items()},
            }
            for one in self
        )


def label_log_likelihoods(model: "ExpLLM", pixel_values: torch.Tensor) -> torch.Tensor:
    """Score every label as the answer to the recognition prompt.

    For each face, the image, the prompt and all labels form one packed sequence (see `PackedLabels`). If the language
    model does not support packing, each label has its own sequence. The score of a label includes its end token. Keys
    and values are not kept. After an out-of-memory error, this and later calls use half the batch size.

    Args:
        model: A model that has labels.
        pixel_values: (B, 3, H, W).

    Returns:
        (B, K) float32: the log-likelihood of each whole label.
    """
    return _score_in_batches(model, pixel_values, lambda pixels: score_labels(model, model.encode_image(pixels)))


def label_probabilities(model: "ExpLLM", pixel_values: torch.Tensor) -> torch.Tensor:
    """Compute the probability of every label, which is its normalized and calibrated likelihood.

    Args:
        model: A model that has labels.
        pixel_values: (B, 3, H, W).

    Returns:
        (B, K) float32, with rows that sum to 1.

    Raises:
        CheckpointError: If a probability is NaN, unless `model.allow_nan` is set.
    """
    return _calibrate(model, label_log_likelihoods(model, pixel_values).softmax(1))


def _calibrate(model: "ExpLLM", probabilities: torch.Tensor) -> torch.Tensor:
    """Apply the model's temperature to probabilities (B, K)."""
    temperature = model.config.temperature
    return _checked(model, probabilities if temperature == 1 else (probabilities.log() / temperature).softmax(1))


def _checked(model: "ExpLLM", probabilities: torch.Tensor) -> torch.Tensor:
    """Return the probabilities; raise an error if one is NaN, which would otherwise go unnoticed."""
    if not model.allow_nan and not probabilities.isfinite().all():
        raise CheckpointError(
            "the model's probabilities are NaN",
            where=model.name_or_path or None,
            remedy="Its weights are damaged, or it overflows in float16: save or download it again, or load it in "
            "another type.",
        )
    return probabilities


def unit_probabilities(model: "ExpLLM", pixel_values: torch.Tensor, units: Sequence[str]) -> torch.Tensor:
    """Compute the probability of the answer "active", as opposed to "not active", for each action unit.

    Args:
        model: The model.
        pixel_values: (B, 3, H, W).
        units: Names of U action units.

    Returns:
        (B, U) float32 probabilities.

    Raises:
        CheckpointError: If a probability is NaN, unless `model.allow_nan` is set.
    """
    packed = pack_unit_states(model, units)

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return score_packed(model, model.encode_image(pixels), packed, 2 * len(units))

    scores = _score_in_batches(model, pixel_values, score)
    return _checked(model, scores.unflatten(1, (len(units), 2)).softmax(-1)[..., 0])


def _score_in_batches(
    model: "ExpLLM", pixel_values: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Score faces (B, 3, H, W) with a function that takes a batch; use smaller batches if memory runs out."""
    size = count = len(pixel_values)
    size = min(size, model.max_batch_sizes.get("recognition", size))
    scores: list[torch.Tensor] = []
    # For a single face, and for large float32 models, merged copies of the weights cost more than they save.
    merge = count > 1 and sum(weight.numel() for weight in model.language.parameters()) < 1e9
    # Inference mode takes 5% less time for a small face, but it does not track the changes of weights under FSDP2.
    fast = nullcontext() if isinstance(model, FSDPModule) else torch.inference_mode()
    # Merge outside inference mode: another thread may need gradients through the merged weights.
    with inference(model), fast_linear(model, merge=merge), fast:
        while len(scores) < count:
            try:
                pixels = pixel_values[len(scores) : len(scores) + size]
                scores += [*score(pixels)]
            except torch.OutOfMemoryError as error:
                _check_repeatable(model, "recognition", size, error)
            else:
                continue
            size = smaller_batches(model, "recognition", min(size, count - len(scores)))
    return torch.stack(scores)


def _check_repeatable(model: "ExpLLM", kind: str, size: int, error: torch.OutOfMemoryError) -> None:
    """Raise an error if a computation that ran out of memory cannot be repeated with a smaller batch.

    A model sharded by FSDP2 cannot repeat a pass: the other ranks wait for this rank's shard of the next weights.
    """
    if isinstance(model, FSDPModule):
        raise ConfigError(
            f"out of memory in the {kind} of {size} faces",
            remedy="Reduce data.eval_batch_size or model.explanation_batch_size, or shard over more devices.",
        ) from error
    if size == 1:
        raise error


def smaller_batches(model: "ExpLLM", kind: str, size: int) -> int:
    """Halve the batch size of this and later calls after an out-of-memory error, and return it.

    Do not call this in the exception handler: the exception keeps the tensors of the failed pass alive.
    """
    model.max_batch_sizes[kind] = half = (size + 1) // 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn(f"out of memory: {kind} continues with batches of {half} faces", stacklevel=4)
    return half


def answer(model: "ExpLLM", pixel_values: torch.Tensor, question: Messages, max_new_tokens: int) -> list[str]:
    """Answer the same question about each face, by greedy decoding.

    Args:
        model: A model that has labels.
        pixel_values: (B, 3, H, W).
        question: A conversation that ends in a question.
        max_new_tokens: Maximum length of an answer, in tokens.

    Returns:
        B texts.
    """
    faces = ((pixels, question) for pixels in pixel_values)
    return [text for _, text in _answers(model, faces, [question], len(pixel_values), max_new_tokens)]


def explain(
    model: "ExpLLM", pixel_values: torch.Tensor, labels: Sequence[Expression], max_new_tokens: int
) -> list[str]:
    """Generate the second round of the CoT conversation, after the given labels, by greedy decoding.

    Args:
        model: The model.
        pixel_values: (B, 3, H, W).
        labels: The B answers of the first round.
        max_new_tokens: Maximum length of an answer, in tokens.

    Returns:
        B texts. In float32, a face gets the same text in a batch as on its own; see `explllm.models.decoding`.
    """
    answers = _answers(model, zip(pixel_values, labels, strict=True), labels, len(labels), max_new_tokens)
    return [text for _, text in answers]


def recognize_and_explain(
    model: "ExpLLM", faces: Iterable[torch.Tensor], batch_size: int, max_new_tokens: int
) -> list[tuple[Recognition, str]]:
    """Recognize the expression of each face, then generate a chain of thought that continues from the predicted label.

    The explanation's conversation begins with the recognition prompt, so image and prompt are prefilled only once if
    the language model supports packing.

    Args:
        model: A model that has labels.
        faces: Pixels (3, H, W) of each face. They are read only when there is a free slot in the batch.
        batch_size: Maximum number of faces in a batch.
        max_new_tokens: Maximum length of a chain of thought, in tokens.

    Returns:
        The recognition and the text of each face.
    """
    unlabeled = ((face, None) for face in faces)
    return cast(list[tuple[Recognition, str]], _answers(model, unlabeled, model.labels, batch_size, max_new_tokens))


def stream(model: "ExpLLM", pixel_values: torch.Tensor, label: Expression, max_new_tokens: int) -> Iterator[str]:
    """Generate the text of `explain` for one image, and yield it piece by piece.

    Args:
        model: The model.
        pixel_values: (1, 3, H, W).
        label: The answer of the first round.
        max_new_tokens: Maximum length of the answer, in tokens.

    Yields:
        Pieces of text.
    """
    decoder = new_decoder(model, [label], 1, max_new_tokens)
    # Do not enter this context around a `yield`: the caller may train between two pieces.
    with inference(model):
        finished = decoder.add(prefill(model, decoder, [(0, (pixel_values[0], label))]))
    yielded = ""
    while True:
        [row] = finished or decoder.rows
        text = model.conversations.decode(row.answer)
        # A character may consist of several tokens; wait for all of them.
        if row.done or not text.endswith("\N{REPLACEMENT CHARACTER}"):
            if len(text) > len(yielded):
                yield text[len(yielded) :]
            yielded = text
        if row.done:
            return
        with inference(model):
            finished = decoder.step()


Face = tuple[torch.Tensor, Expression | Messages | None]
"""Pixels (3, H, W), and either the label to explain, another question, or None to recognize the expression first."""


def _question(asked: Expression | Messages) -> Messages:
    return explanation(str(asked)) if isinstance(asked, Expression) else asked


def _answers(
    model: "ExpLLM", faces: Iterable[Face], labels: Sequence[Expression | Messages], rows: int, max_new_tokens: int
) -> list[tuple[Recognition | None, str]]:
    """Explain faces, or answer another question about each, in batches; new faces take the places of finished ones.

    After an out-of-memory error, this and later calls use half the batch size.

    Args:
        model: The model.
        faces: The faces.
        labels: All labels or questions that may occur, including labels that the model may predict.
        rows: Maximum number of faces in a batch.
        max_new_tokens: Maximum length of a text, in tokens.

    Returns:
        The recognition (None if the face came with a label or question) and the text of each face.
    """
    queue: Iterator[tuple[int, Face]] = enumerate(faces)
    active: dict[int, Face] = {}
    results: dict[int, tuple[Recognition | None, str]] = {}
    rows = min(rows, model.max_batch_sizes.get("explanation", rows))
    decoder = new_decoder(model, labels, rows, max_new_tokens)
    with inference(model), fast_linear(model, output=model.language.get_output_embeddings()):
        while True:
            busy = decoder.any_rank_is_busy()
            # Under FSDP2, all ranks must make the same passes, so they begin new batches together.
            waits = busy and isinstance(model, FSDPModule)
            new = list(islice(queue, 0 if waits or not decoder.refills else decoder.free))
            active.update(new)
            finished: list[Row] | None = None
            try:
                if new:
                    finished = decoder.add(prefill(model, decoder, new))
                elif not busy:
                    return [results[number] for number in range(len(results))]
                else:
                    finished = decoder.step()
            except torch.OutOfMemoryError as error:
                _check_repeatable(model, "explanation", decoder.size, error)
            if finished is None:
                queue, active = chain(list(active.items()), queue), {}
                decoder.clear()
                rows = smaller_batches(model, "explanation", min(rows, decoder.size))
                decoder = new_decoder(model, labels, rows, max_new_tokens)
                continue
            for row in finished:
                number, recognized = row.item
                results[number] = recognized, model.conversations.decode(row.answer)
                del active[number]


def check_count(name: str, value: object) -> None:
    """Raise a ConfigError if an argument such as ``batch_size`` is not an integer of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}", remedy="Use an integer of at least 1.")


def new_decoder(model: "ExpLLM", labels: Sequence[Expression | Messages], rows: int, max_new_tokens: int) -> Decoder:
    """Return a decoder with at most `rows` rows, for conversations about any of the labels or questions.

    Texts end at the language model's last position, so a larger `max_new_tokens` reserves no more memory.
    """
    check_count("max_new_tokens", max_new_tokens)
    prompt = max(len(model.conversations.encode_prompt(_question(label))) for label in labels)
    positions = getattr(model.language.config, "max_position_embeddings", None)
    if positions is not None:
        max_new_tokens = min(max_new_tokens, max(positions - prompt, 1))
    capacity = max(prompt + max_new_tokens, pack_labels(model).mask.shape[-1])
    packs = supports_packing(model)
    return Decoder(model, rows if packs else 1, capacity, max_new_tokens, packs)


def prefill(model: "ExpLLM", decoder: Decoder, faces: Sequence[tuple[int, Face]]) -> list[Row]:
    """Process the image and question of each face, and return the rows to continue.

    Args:
        model: The model.
        decoder: The decoder, which stores the keys and values.
        faces: Pairs of a number and a face; either all faces come with a label or question, or none does.

    Returns:
        One row per face. Its item is the face's number and recognition (None if the face came with a label or
        question).
    """
    conversations = model.conversations
    pixel_values = torch.stack([pixels for _, (pixels, _) in faces])
    labels = [label for _, (_, label) in faces if label is not None]
    image_embeds = model.encode_image(pixel_values)
    recognitions: list[Recognition | None] = [None] * len(faces)
    prefix, continues = conversations.encode_prompt(recognition()), False
    if not labels:
        probabilities = score_labels(model, image_embeds, decoder).softmax(1)
        recognitions = [Recognition.of(model.labels, row) for row in _calibrate(model, probabilities).tolist()]
        labels = [result.expression for result in recognitions if result is not None]
        continues = decoder.packs
    prompts = [conversations.encode_prompt(_question(label)) for label in labels]
    if not continues or any(prompt[: len(prefix)] != prefix for prompt in prompts):
        # The last token of a prompt is processed with the first drafts.
        columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
        prefix = tuple(tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, columns))
        ids = torch.tensor(prefix, device=model.device)
        if decoder.packs:
            prompt_logits(model, ids, image_embeds, decoder)
        else:
            embeds = model.embed(ids.expand(len(faces), -1), image_embeds)
            keep = last_positions(ids, 0)
            decoder.cache = model.language(inputs_embeds=embeds, use_cache=True, logits_to_keep=keep).past_key_values
    rows = []
    for (number, _), result, prompt in zip(faces, recognitions, prompts, strict=True):
        text = conversations.after_image(prompt)
        rows.append(Row((number, result), text, len(text), len(prefix), len(prompt) - len(prefix)))
    return rows
