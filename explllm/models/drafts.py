"""Draft tokens for speculative decoding: likely continuations, from n-gram statistics.

Chains of thought repeat phrases. A table of n-grams in the training texts, saved with the model, predicts the next
tokens from the last ones; texts that the model has already generated predict them even better. A wrong draft costs a
little time but, in float32, never changes an answer; see `explllm.models.decoding`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch

_ORDERS = (4, 3, 2)
"""Lengths of contexts, in tokens; a prediction is based on the longest known context."""
_MAX_ENTRIES = 50_000
"""Maximum number of contexts in a saved table, which then takes about 1 MB."""
_OBSERVED_SHARE = 0.9
"""Estimated probability that the model continues a context in the same way as before."""
_MAX_OBSERVED = 200_000
"""Maximum number of contexts remembered from generated texts; when it is exceeded, all of them are forgotten."""

Context = tuple[int, ...]


class Drafts:
    """Predicts the tokens that follow a text."""

    def __init__(self, table: dict[Context, tuple[int, float]] | None = None) -> None:
        """Start with a table that maps each context to its most frequent next token and that token's share."""
        self.table = table or {}
        self._observed: dict[Context, int] = {}

    @classmethod
    def of_texts(cls, texts: Iterable[Sequence[int]]) -> "Drafts":
        """Count the n-grams of training texts.

        Args:
            texts: Token ids of each text, starting with the question that precedes it.

        Returns:
            Drafts with a table of the contexts that occur at least twice, limited to the 50,000 most frequent.
        """
        following: defaultdict[Context, Counter[int]] = defaultdict(Counter)
        for text in texts:
            for end in range(_ORDERS[-1], len(text)):
                for order in _ORDERS:
                    if order <= end:
                        following[tuple(text[end - order : end])][text[end]] += 1
        frequent = [(counts.total(), context) for context, counts in following.items() if counts.total() > 1]
        table = {}
        for total, context in sorted(frequent, reverse=True)[:_MAX_ENTRIES]:
            [(token, count)] = following[context].most_common(1)
            table[context] = token, count / total
        return cls(table)

    def propose(self, text: Sequence[int], count: int, confidence: float = 0.0) -> list[int]:
        """Predict the tokens that follow a text.

        Args:
            text: Token ids.
            count: Maximum number of tokens to predict.
            confidence: Stop when the estimated probability that all predicted tokens are right falls below this value.

        Returns:
            At most `count` token ids; none if the text ends in an unknown context.
        """
        tokens, probability = list(text[-_ORDERS[0] :]), 1.0
        start = len(tokens)
        for _ in range(count):
            for order in _ORDERS:
                context = tuple(tokens[-order:])
                if (token := self._observed.get(context)) is not None:
                    probability *= _OBSERVED_SHARE
                    break
                if (entry := self.table.get(context)) is not None:
                    token = entry[0]
                    probability *= entry[1]
                    break
            if token is None or probability < confidence:
                break
            tokens.append(token)
        return tokens[start:]

    def observe(self, text: Sequence[int], count: int) -> None:
        """Remember which token followed each of the last contexts in a generated text.

        Args:
            text: Token ids.
            count: Number of new tokens at the end of the text.
        """
        if len(self._observed) > _MAX_OBSERVED:
            self._observed.clear()
        for end in range(max(len(text) - count, _ORDERS[0]), len(text)):
            for order in _ORDERS[:-1]:
                self._observed[tuple(text[end - order : end])] = text[end]

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Return the table of the training texts as tensors, to save it with a model."""
        contexts = torch.full((len(self.table), _ORDERS[0]), -1, dtype=torch.int32)
        for row, context in enumerate(self.table):
            contexts[row, -len(context) :] = torch.tensor(context, dtype=torch.int32)
        tokens = torch.tensor([token for token, _ in self.table.values()], dtype=torch.int32)
        shares = torch.tensor([share for _, share in self.table.values()], dtype=torch.float16)
        return {"contexts": contexts, "tokens": tokens, "shares": shares}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "Drafts":
        """Restore the table from the output of `to_tensors`."""
        columns = (tensors[name].tolist() for name in ("contexts", "tokens", "shares"))
        return cls(
            {
                tuple(token for token in context if token >= 0): (token, share)
                for context, token, share in zip(*columns, strict=True)
            }
        )
