"""Below the lowest adapted layer nothing ever changes: its activations, computed once for every example and kept.

Exact, to the last bit, whether they are kept or not: each example goes through the frozen layers as a sequence of its
own, so that its activations never depend on the batch it was first met in.
"""

from __future__ import annotations

import copy
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.model.attention_layout import AttentionLayout
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.packing import Example, PackedBatch, filler_tokens


class ActivationStore:
    """Activations of examples in a file that no other process sees and that goes with this one.

    Args:
        folder: where the file lies; the system keeps in memory what fits there.
        budget: bytes the file may grow to; what comes later is not kept.
    """

    def __init__(self, folder: Path, budget: float) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the store
        self._budget = budget
        self._end = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def get(self, key: int) -> np.ndarray | None:
        """Read an example's activations.

        Args:
            key: the example.

        Returns:
            Bytes as uint8 [size], or None where they were not kept.
        """
        place = self._places.get(key)
        if place is None:
            return None
        return np.frombuffer(os.pread(self._file.fileno(), place[1], place[0]), dtype=np.uint8)

    def put(self, key: int, values: np.ndarray) -> None:
        """Keep an example's activations, where the budget and the disk have room.

        Args:
            key: the example.
            values: uint8 [size].
        """
        with self._lock:
            if key in self._places or self._end + values.nbytes > self._budget:
                return
            try:
                written = os.pwrite(self._file.fileno(), values.tobytes(), self._end)
            except OSError:  # a full disk: what is kept so far stays of use
                self._budget = 0
                return
            if written == values.nbytes:
                self._places[key] = (self._end, written)
                self._end += written


class FrozenPrefix:
    """The layers below the lowest adapted one, run apart from those above.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters.
        frozen: number of layers below the lowest adapted one, at least 1; see `decoder_layer.frozen_layers`.
        store: where activations are kept, or None: computed anew every time.
    """

    def __init__(
        self, model: PreTrainedModel, grouped: GroupedAdapter[Any], frozen: int, store: ActivationStore | None
    ) -> None:
        base: Any = model.base_model
        self.device = grouped.device
        self.dtype = torch.float32 if grouped.own_layers else model.dtype
        self.store = store
        # Two models over the same weights: up to the lowest adapted layer, and from there on.
        self.lower = _with_modules(base, layers=base.layers[:frozen], norm=nn.Identity())
        self.upper = _with_modules(base, layers=base.layers[frozen:])

    def inputs(self, batch: PackedBatch) -> Tensor:
        """What the lowest adapted layer is given for every token of a batch.

        Args:
            batch: packed examples.

        Returns:
            [1, tokens, size].
        """
        rows = torch.cat(self._activations(batch.examples))
        return rows.index_select(0, batch.example_rows)[None]

    @torch.no_grad()
    def _activations(self, examples: Sequence[Example]) -> list[Tensor]:
        """The activations [length, size] of each example."""
        found: list[Tensor | None] = [self._stored(example) for example in examples]
        missing = [place for place, rows in enumerate(found) if rows is None]
        if missing:
            computed = self._compute([examples[place] for place in missing])
            for place, rows in zip(missing, computed, strict=True):
                found[place] = rows
                key = examples[place].key
                if self.store is not None and key is not None:
                    self.store.put(key, rows.cpu().contiguous().view(torch.uint8).numpy().reshape(-1))
        return [rows for rows in found if rows is not None]

    def _stored(self, example: Example) -> Tensor | None:
        if self.store is None or example.key is None:
            return None
        values = self.store.get(example.key)
        if values is None:
            return None
        rows = torch.from_numpy(values.copy()).view(self.dtype).view(len(example.tokens), -1)
        return rows.to(self.device)

    def _compute(self, examples: Sequence[Example]) -> list[Tensor]:
        lengths = [len(example.tokens) for example in examples]
        filler = filler_tokens(sum(lengths))
        tokens = [example.tokens.astype(np.int64) for example in examples]
        if filler:
            tokens.append(np.zeros(filler, dtype=np.int64))
        layout = AttentionLayout(np.array([len(some) for some in tokens]), device=self.device)
        hidden = self.lower(
            input_ids=torch.from_numpy(np.concatenate(tokens))[None].to(self.device),
            position_ids=torch.cat([torch.arange(len(some)) for some in tokens])[None].to(self.device),
            packed_layout=layout,
            use_cache=False,
        ).last_hidden_state[0]
        return list(hidden[: sum(lengths)].split(lengths))


def _with_modules(module: nn.Module, **replaced: nn.Module) -> nn.Module:
    """A shallow copy with some children replaced; parameters and all other children are shared."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **replaced}
    return twin
