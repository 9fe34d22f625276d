"""From last hidden states to logits of classes: at one token of each example, through each group's own head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.adapter_products import FEWEST_ROWS
from fedloom.model.classes import Classes, first_position, is_causal, trained_head
from fedloom.model.packing import Example, pack

PROBE_LENGTHS = (7, 9)
# Of the largest logit: what rounding may make of a correct computation.
TOLERANCE = {torch.float32: 1e-4}
ROUGH_TOLERANCE = 0.1


class ClassReader:
    """Reads classes off a model's last hidden states.

    Args:
        model: the frozen base, as it was loaded; a pooler of its is from now on applied here only.
        classes: what there is to tell apart.

    Raises:
        UserError: where the model computes its logits in another way.
    """

    def __init__(self, model: PreTrainedModel, classes: Classes) -> None:
        self.classes = classes
        self.causal = is_causal(model)
        self.first_position = first_position(model)
        name = trained_head(model)
        # The trained head, or the language model's, and within the latter the layer that has a row for every word.
        self.head: Any = model.get_submodule(name) if name else None
        self.words = torch.tensor(classes.words, device=model.device)
        # The base's pooler, where it has one.
        self._pool: Any = None
        if self.head is None:
            self._root, self._inner = _language_model_head(model)
        with _drawn(self.head):
            self._check(model, name is not None)

    def _check(self, model: PreTrainedModel, has_pooler: bool) -> None:
        expected = _expected(model, self)
        pooler: Any = getattr(model.base_model, "pooler", None) if has_pooler else None
        if pooler is not None:
            # In a packed batch it would take the first token of all for that of each example.
            self._pool, pooler.forward = pooler.forward, _nothing
        found = _packed(model, self)
        worst = float((found - expected).abs().max() / expected.abs().max())
        if not worst <= TOLERANCE.get(model.dtype, ROUGH_TOLERANCE):
            raise UserError(
                f"model.base: {type(model).__name__} computes its logits from more than one token of the last layer, "
                f"or in another way that is not known here (they differ by {worst:.0e} of the largest)"
            )

    def logits(self, rows: Tensor, starts: Sequence[int], heads: Mapping[str, Tensor] | None) -> Tensor:
        """The logits of every class.

        Args:
            rows: [rows, size], the last hidden states where classes are read; those after the last group are filler.
            starts: groups + 1 positions; group g owns rows starts[g] to starts[g + 1].
            heads: by name within the trained head, fp32 [groups, ...]; None: the model's own.

        Returns:
            fp32 [rows of groups, classes].
        """
        if self.head is None:
            layer = _WordRows(self._root.get_submodule(self._inner), self.words)
            head = _with(self._root, {self._inner: layer}) if self._inner else layer
            logits: Tensor = head(rows[None])[0, : starts[-1]]
            return logits.float()
        features = (rows if self._pool is None else self._pool(rows[:, None])).float()[: starts[-1]]
        if heads is None:
            return _apply(self.head, features.to(next(self.head.parameters()).dtype)).float()
        own = {name: values.unbind() for name, values in heads.items()}
        found = [
            _apply(_with(self.head, {name: values[group] for name, values in own.items()}), features[first:last])
            for group, (first, last) in enumerate(pairwise(starts))
            if first < last
        ]
        return torch.cat(found)


class _WordRows(nn.Module):
    """An output layer at some words only, in fp32."""

    def __init__(self, layer: nn.Module, words: Tensor) -> None:
        super().__init__()
        self.layer, self.words = layer, words

    def forward(self, rows: Tensor) -> Tensor:
        layer: Any = self.layer
        weight = layer.weight.index_select(0, self.words).float()
        bias = None if layer.bias is None else layer.bias.index_select(0, self.words).float()
        return nn.functional.linear(rows.float(), weight, bias)


def _apply(head: nn.Module, features: Tensor) -> Tensor:
    """A head's logits [rows, classes], each row by itself; see FEWEST_ROWS: products of fewer rows round otherwise."""
    padded = nn.functional.pad(features, (0, 0, 0, max(0, FEWEST_ROWS - len(features))))
    logits: Tensor = head(padded[:, None]).reshape(len(padded), -1)[: len(features)]
    return logits


def _with(module: nn.Module, replaced: Mapping[str, Any], prefix: str = "") -> nn.Module:
    """A shallow copy of a module with some parameters or children replaced, by name; the rest is shared.

    Threads train side by side over one model, so its own tensors can't be exchanged for a while.
    """
    twin = copy.copy(module)
    twin._parameters = {name: replaced.get(prefix + name, value) for name, value in module._parameters.items()}
    twin._modules = {
        name: replaced[prefix + name]
        if prefix + name in replaced
        else None
        if child is None
        else _with(child, replaced, f"{prefix}{name}.")
        for name, child in module._modules.items()
    }
    return twin


@contextmanager
def _drawn(head: nn.Module | None) -> Iterator[None]:
    """Lend a trained head weights that tell classes apart: a fresh one's are zero."""
    parameters = [] if head is None else list(head.parameters())
    own, generator = [parameter.data for parameter in parameters], torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter)
    yield
    for parameter, values in zip(parameters, own, strict=True):
        parameter.data = values


def _nothing(hidden: Tensor) -> None:
    """A pooler's forward within the base."""


def _language_model_head(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The part of a language model after its last hidden states, and the name of the output layer within it."""
    layer = model.get_output_embeddings()
    for root in model.children():
        name = next((name for name, module in root.named_modules() if module is layer), None)
        if name is not None:
            return root, name
    raise UserError(f"model.base: {type(model).__name__} has no head over words, which task.head: label_words needs")


def _probe_tokens(model: PreTrainedModel) -> list[np.ndarray]:
    padding = model.config.get_text_config().pad_token_id
    usable = np.array([token for token in range(1, model.config.get_text_config().vocab_size) if token != padding])
    generator = np.random.default_rng(0)
    return [generator.choice(usable, length) for length in PROBE_LENGTHS]


@torch.no_grad()
def _expected(model: PreTrainedModel, reader: ClassReader) -> Tensor:
    """Logits [examples, classes] of short examples, as transformers computes them one by one with its own attention."""
    ours = str(model.config._attn_implementation)
    model.set_attn_implementation("eager")
    found = []
    for tokens in _probe_tokens(model):
        logits = model(input_ids=torch.from_numpy(tokens)[None].to(model.device), use_cache=False).logits[0]
        found.append(logits if reader.head is not None else logits[-1].index_select(0, reader.words))
    model.set_attn_implementation(ours)
    return torch.stack(found).float()


@torch.no_grad()
def _packed(model: PreTrainedModel, reader: ClassReader) -> Tensor:
    """The same as computed here."""
    examples = [
        Example(
            tokens, np.zeros(len(tokens), dtype=bool), label=0, place=len(tokens) - 1 if reader.head is None else None
        )
        for tokens in _probe_tokens(model)
    ]
    batch = pack([examples], model.device, share_prompts=False, read_first=not reader.causal)
    hidden = model.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids + reader.first_position,
        packed_layout=batch.layout,
        use_cache=False,
    ).last_hidden_state[0]
    return reader.logits(hidden.index_select(0, batch.label_positions), (0, len(examples)), None)
