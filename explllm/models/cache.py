"""Key-value caches of conversations that are processed together.

Shape legend:
    R rows in a pass, Q tokens per row, C columns that a pass can see, P tokens of the shared prefix, L heads,
    E width of a head
"""

import functools
import weakref
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class SharedPrefix(Cache):
    """Keys and values of a prefix that all conversations share, computed for one row and used for any number of rows.

    The first pass, with one row, writes the prefix. Later passes, with R rows, attend to the prefix and to their own
    tokens, which are not kept.
    """

    def __init__(self) -> None:
        """Create an empty cache."""
        super().__init__(layer_class_to_replicate=_PrefixLayer)


class _PrefixLayer(CacheLayerMixin):
    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the first states (1, L, P, E); in later calls, return them with the new states: (R, L, P + Q, E)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        rows = len(key_states)
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=2),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # the method's name in older releases of transformers


class SlotCache(Cache):
    """Keys and values of several conversations, one per row. `select` chooses where the next forward pass writes."""

    def __init__(self, rows: int, capacity: int) -> None:
        """Reserve rows and columns; the memory is allocated in the first pass."""
        # The layers get a weak reference, because a reference cycle would keep the memory until Python's next full
        # garbage collection.
        self._weak = weakref.proxy(self)
        # pyrefly: ignore[bad-argument-type]
        super().__init__(layer_class_to_replicate=functools.partial(_SlotLayer, self._weak))
        self.size = rows, capacity
        self.rows, self.columns, self.width = slice(0, 0), torch.empty(0, 0, dtype=torch.long), 0

    def select(self, rows: slice, columns: torch.Tensor, width: int) -> None:
        """Choose the rows of the next pass, the columns (R, Q) of its tokens, and the number C of visible columns."""
        self.rows, self.columns, self.width = rows, columns, width

    def write_prefix(self, prefix: SharedPrefix) -> None:
        """Copy a shared prefix to the first columns of all rows."""
        for index, shared in enumerate(prefix.layers):
            if index == len(self.layers):
                self.layers.append(_SlotLayer(self._weak))
            layer = self.layers[index]
            assert isinstance(layer, _SlotLayer) and isinstance(shared, _PrefixLayer)
            assert shared.keys is not None and shared.values is not None
            if not layer.is_initialized:
                layer.lazy_initialization(shared.keys, shared.values)
            assert layer.keys is not None and layer.values is not None
            layer.keys[:, :, : shared.get_seq_length()] = shared.keys
            layer.values[:, :, : shared.get_seq_length()] = shared.values

    def move_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for layer in self.layers:
            assert isinstance(layer, _SlotLayer) and layer.keys is not None and layer.values is not None
            layer.keys[target] = layer.keys[source]
            layer.values[target] = layer.values[source]


class _SlotLayer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, capacity = self.cache.size
        # Use zeros, because uninitialized memory may contain NaN, which remains NaN when attention multiplies masked
        # values by 0.
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], capacity, states.shape[3]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write states (R, L, Q, E), and return all states that the pass can see, (R, L, C, E)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        columns = self.cache.columns.to(key_states.device)
        rows = torch.arange(len(columns), device=columns.device).unsqueeze(1)
        keys, values = self.keys[self.cache.rows], self.values[self.cache.rows]
        keys[rows, :, columns] = key_states.transpose(1, 2)
        values[rows, :, columns] = value_states.transpose(1, 2)
        return keys[:, :, : self.cache.width], values[:, :, : self.cache.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        # The length is not needed, because all passes specify the positions of their tokens.
        return 0

    def get_max_length(self) -> int:
        return self.cache.size[1]

    get_max_cache_shape = get_max_length  # the method's name in older releases of transformers
