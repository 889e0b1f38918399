"""Greedy decoding of several conversations at once, with several tokens per forward pass.

Each row of a `SlotCache` holds the keys and values of one conversation, from column 0, without padding. A forward pass
processes the last token of every row and the draft tokens after it, and predicts the token after each of them. The
drafts before the first disagreement are accepted, and so is the prediction that follows them; the next pass overwrites
the columns of the rejected drafts. This is speculative decoding (Leviathan et al. 2023) with deterministic drafts. In
float32, it generates the same tokens as plain greedy decoding::

    text            the brows are
    pass                          [are] lowered  and   tense      drafts from n-grams
    predictions                 lowered  and  drawn     .
    new tokens                  lowered  and  drawn               three tokens in one pass

In bfloat16 and float16, passes of different shapes round differently, which can decide a near tie between two tokens.
A text may then depend on the other faces in the batch and, through the drafts, on earlier faces.

Finished rows leave the batch, and new conversations take their places.

Shape legend:
    R rows in a pass, Q tokens per row, C columns that a pass can see, T tokens of a prompt, N image tokens, D width of
    the language model, V vocabulary
"""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from transformers import Cache

from explllm.models.cache import SharedPrefix, SlotCache
from explllm.models.last_layer import last_layer_at_end

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM

_MAX_TOKENS = 9
"""Maximum number of tokens per row in a pass: the last token of its text, and drafts."""
_CONFIDENCE = 0.3
"""Minimum estimated probability that drafts are right; less likely drafts cost more time than they save."""
_TOKENS_PER_PASS = {"cpu": 40}
"""Maximum number of tokens in a pass, over all rows; on other devices, `_MANY_TOKENS`. With more rows, a CPU still
processes one draft per row."""
_MANY_TOKENS = 256
"""A GPU reads all weights in each pass, so up to this many tokens cost little extra time."""
_TOKENS_WORTH_A_PASS = {"cpu": 128}
"""An extra forward pass for a shared prefix pays off if it saves at least this many tokens; on other devices,
`_MANY_TOKENS_WORTH_A_PASS`."""
_MANY_TOKENS_WORTH_A_PASS = 2048
_SMALL_PASS = 5e7
"""Operations per pass below which one CPU thread is faster: waking the other threads costs more time than they save."""
_REFILL = 4
"""Number of new faces to prefill together when finished faces leave a batch, which takes half the time per face."""


def attention_masks(
    model: "ExpLLM", visible: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return additive attention masks for the language model.

    Args:
        model: The model.
        visible: (R, 1, Q, C), True where a token may attend to a column.
        positions: (R, Q) positions of the tokens.
        seen: (R, C) or (1, C) positions of the columns.

    Returns:
        The mask (R, 1, Q, C), or one mask per layer type if the language model's configuration lists layer types and
        its sliding window is shorter than C.
    """
    config = model.language.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    dtype = cast(torch.Tensor, model.get_input_embeddings().weight).dtype

    def additive(allowed: torch.Tensor) -> torch.Tensor:
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )

    if window is None or visible.shape[-1] <= window:
        return additive(visible)
    near = visible & (positions.unsqueeze(2) - seen.unsqueeze(1) < window).unsqueeze(1)
    if not getattr(config, "layer_types", None):
        return additive(near)
    return {"full_attention": additive(visible), "sliding_attention": additive(near)}


@contextmanager
def enough_threads(model: "ExpLLM", tokens: int) -> Iterator[None]:
    """Use one CPU thread if the language model's next pass is small, such as a decoding step of a small model.

    Any other Python thread that first uses torch while this context is active stays limited to one CPU thread.

    Args:
        model: The model.
        tokens: Number of tokens in the pass.
    """
    threads = torch.get_num_threads()
    if model.device.type != "cpu" or threads == 1 or _operations(model, tokens) >= _SMALL_PASS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_weight_counts: MutableMapping[nn.Module, int] = WeakKeyDictionary()


def _operations(model: "ExpLLM", tokens: int) -> int:
    """Estimate the number of operations that the language model needs for a number of tokens."""
    if model.language not in _weight_counts:  # counting takes 1 ms, which is 5% of the recognition of a small face
        _weight_counts[model.language] = sum(weight.numel() for weight in model.language.parameters())
    return 2 * tokens * _weight_counts[model.language]


def last_positions(tokens: torch.Tensor, count: int) -> torch.Tensor | int:
    """Return `logits_to_keep` for the last `count` positions of tokens (..., T); on a GPU, at least one position.

    On a CPU, the result is a tensor of indices: with a number, the language model would take a view of the states, and
    the output layer would multiply the rows of a batch one by one. On a GPU, the result is a number, because the states
    may be on another device than the tokens; it is at least 1, because 0 would keep all positions.
    """
    size = tokens.shape[-1]
    return torch.arange(size - count, size) if tokens.device.type == "cpu" else max(count, 1)


def prompt_logits(
    model: "ExpLLM",
    ids: torch.Tensor,
    image_embeds: torch.Tensor,
    decoder: "Decoder | None" = None,
    visible: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    keep: int = 0,
) -> torch.Tensor:
    """Process one prompt for several faces; if it saves time, process the tokens before the image once for all faces.

    Args:
        model: The model. Its language model must accept any mask and positions.
        ids: (T,) token ids.
        image_embeds: (R, N, D).
        decoder: Decoder that stores the keys and values in new rows after its existing rows; by default, they are not
            kept.
        visible: (1, 1, T, T), True where a token may attend to another; by default, attention is causal.
        positions: (1, T); by default 0 to T - 1.
        keep: Number of positions at the end whose logits are needed.

    Returns:
        Logits (R, keep, V). If `keep` is 0, the logits of one position may still be returned.
    """
    faces, size = len(image_embeds), len(ids)
    positions = torch.arange(size, device=ids.device).unsqueeze(0) if positions is None else positions
    prefix = None
    start = 0 if decoder is None else decoder.shared_tokens(ids)
    others = faces - 1 if decoder is None else decoder.size - 1
    if decoder is not None and not start:
        decoder.prefix = []  # the new rows overwrite it
    # Under FSDP2, do not add a pass: all ranks must make the same passes, but their numbers of faces may differ.
    if not start and not isinstance(model, FSDPModule) and (decoder is None or not decoder.rows):
        beginning = int((ids == model.config.image_token_id).nonzero()[0])
        if beginning * others >= _TOKENS_WORTH_A_PASS.get(ids.device.type, _MANY_TOKENS_WORTH_A_PASS):
            start, prefix = beginning, SharedPrefix()
            with enough_threads(model, beginning), last_layer_at_end(model.language, 1):
                model.language(
                    inputs_embeds=model.get_input_embeddings()(ids[:beginning].unsqueeze(0)),
                    past_key_values=prefix,
                    use_cache=True,
                    logits_to_keep=last_positions(ids, 0),
                )
            if decoder is not None:
                decoder.share(prefix, ids[:beginning].tolist())
    if visible is None and start:
        visible = torch.ones(1, 1, size, size, dtype=torch.bool, device=ids.device).tril()
    mask = None if visible is None else attention_masks(model, visible[:, :, start:], positions[:, start:], positions)
    cache = prefix if decoder is None else decoder.select_new(faces, start, size)
    embeds = model.embed(ids[start:].expand(faces, -1), image_embeds)
    with enough_threads(model, embeds[..., 0].numel()), last_layer_at_end(model.language, max(keep, 1)):
        return model.language(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions[:, start:],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=last_positions(ids[start:], keep),
        ).logits


@dataclass
class Row:
    """A conversation that is being continued."""

    item: Any
    """The caller's data."""
    text: list[int]
    """Token ids after the image: the rest of the prompt, then the answer so far."""
    prompt: int
    """Number of prompt tokens in `text`."""
    cached: int
    """Number of tokens in the cache, including image tokens."""
    pending: int
    """Number of tokens at the end of `text` that are not in the cache yet."""
    done: bool = False

    @property
    def answer(self) -> list[int]:
        """The generated token ids."""
        return self.text[self.prompt :]


@dataclass
class Decoder:
    """Continues conversations greedily until an end token or the maximum length."""

    model: "ExpLLM"
    size: int
    """Maximum number of rows."""
    capacity: int
    """Number of columns of the cache: at least the maximum length of a prompt and its answer, in tokens."""
    max_new_tokens: int
    """Maximum length of an answer, in tokens."""
    packs: bool = True
    """Whether the language model accepts arbitrary attention masks and positions. If not, rows are continued one at a
    time, without drafts and with the model's own cache."""
    rows: list[Row] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    """Token ids at the beginning of all conversations; the first columns of every row contain their keys and values."""

    def __post_init__(self) -> None:
        """Reserve the cache."""
        self.cache: Cache = SlotCache(self.size, self.capacity)
        self.end_ids = set(self.model.conversations.end_token_ids)

    @property
    def free(self) -> int:
        """Number of free rows."""
        return self.size - len(self.rows)

    @property
    def refills(self) -> bool:
        """Whether enough rows are free to prefill new ones now, rather than after the next pass."""
        return not self.rows or self.free >= min(_REFILL, (self.size + 1) // 2)

    def any_rank_is_busy(self) -> bool:
        """Return whether there are unfinished rows.

        Under FSDP2, the rows of all ranks count, because all ranks must make the same passes.
        """
        if not isinstance(self.model, FSDPModule):
            return bool(self.rows)
        busy = torch.tensor(len(self.rows), device=self.model.device)
        distributed.all_reduce(busy, distributed.ReduceOp.MAX)
        return bool(busy)

    def clear(self) -> None:
        """Drop all rows and free the cache."""
        self.rows, self.prefix, self.cache = [], [], SlotCache(0, 0)

    def share(self, prefix: SharedPrefix, ids: list[int]) -> None:
        """Write the shared prefix of all conversations to all rows; call this before the first row is added."""
        assert isinstance(self.cache, SlotCache) and not self.rows
        self.cache.write_prefix(prefix)
        self.prefix = ids

    def shared_tokens(self, ids: torch.Tensor) -> int:
        """Return the number of tokens at the beginning of a prompt (T,) that all rows already contain."""
        return len(self.prefix) if ids[: len(self.prefix)].tolist() == self.prefix else 0

    def select_new(self, count: int, start: int, length: int) -> SlotCache:
        """Select columns `start` to `length` - 1 of `count` new rows after the existing ones, and return the cache."""
        assert isinstance(self.cache, SlotCache)
        columns = torch.arange(start, length, device=self.model.device).expand(count, -1)
        self.cache.select(slice(len(self.rows), len(self.rows) + count), columns, length)
        return self.cache

    def add(self, rows: list[Row]) -> list[Row]:
        """Add prefilled rows and generate their first tokens; remove finished rows from the batch and return them."""
        first = len(self.rows)
        self.rows += rows
        return self._advance(first)

    def step(self) -> list[Row]:
        """Extend every row by at least one token; remove finished rows from the batch and return them."""
        return self._advance(0)

    def _advance(self, first: int) -> list[Row]:
        rows = self.rows[first:] or [Row(None, [0], 0, 0, 1)]  # this rank has finished, but another has not
        drafts = [self._drafts(row, len(rows)) for row in rows]
        inputs = [row.text[-row.pending :] + draft for row, draft in zip(rows, drafts, strict=True)]
        length = max(map(len, inputs))
        keep = length - min(row.pending for row in rows) + 1
        ids = [tokens + [0] * (length - len(tokens)) for tokens in inputs]
        tokens = torch.tensor(ids, device=self.model.device)
        with enough_threads(self.model, tokens.numel()):
            output = self.model.language(
                input_ids=tokens,
                **(self._slots(rows, first, length) if isinstance(self.cache, SlotCache) else {}),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=last_positions(tokens, keep),
            )
            predictions = output.logits.argmax(-1).tolist()
        self.cache = output.past_key_values
        for row, draft, predicted in zip(rows, drafts, predictions, strict=True):
            self._accept(row, draft, predicted[row.pending - 1 - (length - keep) :])
        return self.remove_finished()

    def _slots(self, rows: list[Row], first: int, length: int) -> dict[str, Any]:
        """Select the cache slots of the next pass; return its masks (R, 1, Q, C) and positions (R, Q)."""
        assert isinstance(self.cache, SlotCache)
        device = self.model.device
        starts = torch.tensor([row.cached for row in rows], device=device).unsqueeze(1)
        # Padding after a row may extend beyond the last column; nothing attends to it.
        columns = (starts + torch.arange(length, device=device)).clamp(max=self.capacity - 1)
        width = min(max(row.cached for row in rows) + length, self.capacity)
        self.cache.select(slice(first, first + len(rows)), columns, width)
        seen = torch.arange(width, device=device).unsqueeze(0)
        visible = (seen.unsqueeze(1) <= columns.unsqueeze(2)).unsqueeze(1)
        return {"attention_mask": attention_masks(self.model, visible, columns, seen), "position_ids": columns}

    def _drafts(self, row: Row, rows: int) -> list[int]:
        if not (self.model.speculate and self.packs):
            return []
        remaining = self.max_new_tokens - (len(row.text) - row.prompt)
        device = self.model.device.type
        affordable = max(_TOKENS_PER_PASS.get(device, _MANY_TOKENS) // rows, 2 if device == "cpu" else 1)
        return self.model.drafts.propose(row.text, min(_MAX_TOKENS, affordable, remaining) - 1, _CONFIDENCE)

    def _accept(self, row: Row, draft: list[int], predicted: list[int]) -> None:
        """Append the drafts that equal the predictions, and the prediction after them."""
        agreed = next((place for place, token in enumerate(draft) if token != predicted[place]), len(draft))
        new = predicted[: agreed + 1]
        end = next((place for place, token in enumerate(new) if token in self.end_ids), None)
        new = new if end is None else new[: end + 1]
        row.cached += row.pending + len(new) - 1
        row.pending = 1
        row.text += new
        row.done = end is not None or len(row.text) - row.prompt >= self.max_new_tokens
        if self.model.speculate:
            self.model.drafts.observe(row.text, len(new))

    def remove_finished(self) -> list[Row]:
        """Remove the finished rows from the batch, and return them."""
        finished = [row for row in self.rows if row.done]
        for place in reversed(range(len(self.rows))):
            if self.rows[place].done:
                last = self.rows.pop()
                if place < len(self.rows):
                    assert isinstance(self.cache, SlotCache)
                    self.cache.move_row(len(self.rows), place)
                    self.rows[place] = last
        return finished
