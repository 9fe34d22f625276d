"""The adapters of a whole cohort over one base, trained in one pass: what all kinds of adapters have in common.

Every token of a packed batch belongs to a group, and every group has an adapter of its own. Nothing ever mixes
groups, so K clients in one pass train exactly as each would alone. A kind (`fedloom.model.adapters`) says which named
tensors an adapter has, how they begin, how they change the model, and in which format others can read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.classes import trained_head
from fedloom.model.head_loss import head_is_plain
from fedloom.model.loaded_adapters import LoadedAdapters
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import AdapterKind

if TYPE_CHECKING:
    from fedloom.model.class_reader import ClassReader
    from fedloom.model.frozen_prefix import FrozenPrefix
    from fedloom.model.packing import PackedBatch
    from fedloom.model.pruned_pass import PrunedPass
    from fedloom.recipe.model_schema import ModelConfig

Adapter = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
KindConfig = TypeVar("KindConfig", bound=AdapterKind)
# PEFT's names begin with it.
PREFIX = "base_model.model."
# Of a fresh classification head's weights.
HEAD_DEVIATION = 0.02


@dataclass(frozen=True)
class Layout:
    """What an adapter consists of, as the structure of a model alone says.

    Args:
        shapes: of the trained tensors, by name.
        layers: names of the modules it changes; none where it changes what enters the lowest decoder layer.
    """

    shapes: Shapes
    layers: list[str]


class GroupedAdapter(Generic[KindConfig]):
    """The adapters of a cohort on one model: where they live while they train.

    All groups' parameters are rows of one [groups, parameters] fp32 buffer, all gradients rows of another, so an
    optimiser works on two tensors and a client's gradient norm is the norm of one row. What `load` puts in place is
    seen by the calling thread only.

    Args:
        model: the frozen base, which the kind changes in place.
        config: the recipe's adapter section.
    """

    # Whether several clients can share a pass; otherwise one is trained after another.
    cohorts: ClassVar[bool] = True
    # Whether `decoder_layer.DecoderLayer`, which calls no module within a layer, may take the place of the layers.
    fits_own_layers: ClassVar[bool] = False
    # Whether the output head is trained, too: its loss then needs the gradient of its weight.
    trains_head: ClassVar[bool] = False
    # What the names of the tensors of a trained classification head begin with.
    head_prefix: ClassVar[str] = PREFIX

    def __init__(self, model: PreTrainedModel, config: KindConfig) -> None:
        layout = self.layout(model, config)
        self.config = config
        self.head_shapes = self.shapes_of_head(model)
        # Those of the kind alone, which knows nothing of a classification head.
        self.own_shapes = {name: shape for name, shape in layout.shapes.items() if name not in self.head_shapes}
        self.shapes = self.own_shapes | self.head_shapes
        self.head_names = frozenset(self.head_shapes)
        self.layers = layout.layers
        self.size = sum(math.prod(shape) for shape in self.shapes.values())
        self.device = next(model.parameters()).device
        self.dtype = model.dtype
        self.plain_head = head_is_plain(model)
        # Whether the decoder layers are computed by `decoder_layer`; see `use_own_layers`.
        self.own_layers = False
        # Whether the last layer, given labelled rows, goes on with them only; see also `encoder_layer`.
        self.last_at_labels = False
        # What runs the layers below the lowest changed one, where there are any; see `frozen_prefix`.
        self.frozen_prefix: FrozenPrefix | None = None
        # Whether layers keep their inputs only; see `checkpointing`.
        self.recompute = False
        # Whether squares of gradients can be had without the gradients; see `load_squares`.
        self.has_squares = False
        # Virtual tokens before the text of every example.
        self.virtual_tokens = 0
        # What reads classes off the last hidden states, where examples are to be classified.
        self.reader: ClassReader | None = None
        self._head = {name: model.get_parameter(self._in_model(name)).detach() for name in self.head_shapes}
        self._loaded = LoadedAdapters()

    @classmethod
    def layout(cls, model: PreTrainedModel, config: KindConfig) -> Layout:
        """What an adapter on a model consists of.

        Args:
            model: the base (weights may be on the meta device), unchanged.
            config: the recipe's adapter section.

        Returns:
            Its tensors' shapes, and the modules it changes.

        Raises:
            UserError: where the config does not fit the model.
        """
        raise NotImplementedError

    @classmethod
    def shapes_of_head(cls, model: PreTrainedModel) -> Shapes:
        """The tensors of a sequence classifier's head, which is trained beside any kind of adapter.

        Args:
            model: the base (weights may be on the meta device).

        Returns:
            Shapes by name; none for other models.
        """
        head = trained_head(model)
        parameters = {} if head is None else dict(model.get_submodule(head).named_parameters(prefix=head))
        return {cls.head_prefix + name: tuple(value.shape) for name, value in parameters.items()}

    @property
    def has_fresh_head(self) -> bool:
        """Whether there is a classification head that the base's weights lacked: it is zero then, see `load_base`."""
        return bool(self._head) and not any(value.any() for value in self._head.values())

    def initial(self, seed: int) -> Adapter:
        """A fresh adapter, with the base's classification head or, where it has none yet, a fresh one.

        A fresh head's weights are drawn from a normal distribution of standard deviation `HEAD_DEVIATION`, as BERT's
        own are, its biases are zero.

        Args:
            seed: the recipe's seed.

        Returns:
            fp32 tensors on the CPU.
        """
        head = {name: value.to("cpu", torch.float32, copy=True) for name, value in self._head.items()}
        if self.has_fresh_head:
            for name, value in head.items():
                if value.dim() > 1:
                    generator = torch_generator(seed, f"head {self._in_model(name)}")
                    value.normal_(std=HEAD_DEVIATION, generator=generator)
        return self.own_initial(seed) | head

    def own_initial(self, seed: int) -> Adapter:
        """A fresh adapter without classification head.

        Args:
            seed: the recipe's seed.

        Returns:
            fp32 tensors on the CPU.
        """
        raise NotImplementedError

    def untuned(self, fresh: Adapter) -> Adapter:
        """What to load for the base model as it is.

        Args:
            fresh: an adapter as `initial` gives it.

        Returns:
            The very same, where the model computes with it what the base does. (A fresh classification head is part of
            it: the base has none that could be tested.)
        """
        return fresh

    def inputs(self, model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
        """What the base model computes a batch from.

        Args:
            model: the base, as this kind has changed it.
            batch: packed with `places`.

        Returns:
            Arguments of its forward, beside positions and layout.
        """
        return {"input_ids": batch.input_ids}

    def write(self, folder: Path, adapter: Mapping[str, Tensor], model: PreTrainedModel, config: ModelConfig) -> None:
        """Write an adapter in a format that others read.

        Args:
            folder: exists and is empty.
            adapter: fp32 tensors, and what an algorithm sends beside them.
            model: the base, as this kind has changed it.
            config: the recipe's model section.
        """
        raise NotImplementedError

    def read(self, folder: Path) -> Adapter:
        """Read what `write` has written, or another tool.

        Args:
            folder: holds an adapter.

        Returns:
            fp32 tensors, on the CPU.

        Raises:
            UserError: where it is missing, or does not fit the model.
        """
        raise NotImplementedError

    @staticmethod
    def opened(base: PreTrainedModel, folder: Path) -> Any:
        """A plain transformers model with an adapter, for generating: without anything of a cohort.

        Args:
            base: as transformers has loaded it.
            folder: as `write` has left it.

        Returns:
            Something with `generate`.
        """
        raise NotImplementedError

    @property
    def values(self) -> Tensor:
        """The loaded adapters, fp32 [groups, parameters]."""
        return self._loaded.values

    @property
    def gradients(self) -> Tensor:
        """Their gradients, fp32 [groups, parameters]."""
        return self._loaded.gradients

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The loaded adapters by name, fp32 [groups, ...]: what a forward pass multiplies with."""
        return self._loaded.parameters

    @property
    def squares(self) -> Tensor | None:
        """What `load_squares` has put in place, fp64 [groups]; else None."""
        return self._loaded.squares

    @property
    def pruned(self) -> PrunedPass | None:
        """What the calling thread's passes leave out of the base; None: nothing."""
        return self._loaded.pruned

    @pruned.setter
    def pruned(self, pruned: PrunedPass | None) -> None:
        self._loaded.pruned = pruned

    @property
    def places(self) -> int:
        """Places for virtual tokens that a batch needs before every text, for what is loaded."""
        return 0

    @property
    def group_starts(self) -> tuple[int, ...]:
        """Token positions of the groups in the batch at work; see `PackedBatch`."""
        return self._loaded.group_starts

    @group_starts.setter
    def group_starts(self, starts: tuple[int, ...]) -> None:
        self._loaded.group_starts = starts

    @property
    def virtual_apart(self) -> bool:
        """Whether every example of a batch needs such places of its own; see `packing`."""
        return False

    @property
    def heads(self) -> dict[str, Tensor] | None:
        """The loaded classification heads, fp32 [groups, ...] by name within the head; None: the model's own."""
        if self.trains_head:
            return None
        return {self._in_model(name).partition(".")[2]: self.parameters[name] for name in self.head_shapes}

    def loaded(self) -> dict[str, Any]:
        """What the calling thread has loaded, for `borrowed`."""
        return dict(self._loaded.__dict__)

    @contextmanager
    def borrowed(self, loaded: dict[str, Any]) -> Iterator[None]:
        """Work in this thread with what another one has loaded.

        Args:
            loaded: as `loaded` gave it there.
        """
        own = self.loaded()
        self._loaded.__dict__.update(loaded)
        try:
            yield
        finally:
            self._loaded.__dict__.update(own)

    def load(self, adapters: Sequence[Mapping[str, Tensor]], trainable: bool = True) -> None:
        """Put one adapter into every group.

        Args:
            adapters: one for each group, fp32.
            trainable: whether gradients will be asked for.
        """
        loaded = self._loaded
        loaded.values = torch.stack([self.flatten(adapter) for adapter in adapters]).to(self.device)
        loaded.gradients = torch.zeros_like(loaded.values) if trainable else loaded.values[:0]
        loaded.gradient_views = self.split(loaded.gradients)
        loaded.parameters = {
            name: view.detach().requires_grad_(trainable) for name, view in self.split(loaded.values).items()
        }
        loaded.squares = None

    def load_squares(self, adapter: Mapping[str, Tensor], groups: int) -> Tensor:
        """Put one adapter into all groups, to ask for the squared norms of each group's gradients, not for gradients.

        Adapted layers hand these back in place of a gradient: what autograd gives as the gradient of the returned
        tensor is the sum over layers of each group's squared norms. No gradient of a whole adapter is ever held.

        Args:
            adapter: fp32.
            groups: how many.

        Returns:
            fp64 zeros [groups], with respect to which a loss is to be differentiated; of kinds with `has_squares` only.
        """
        loaded = self._loaded
        loaded.values = self.flatten(adapter)[None].to(self.device)
        loaded.gradients = loaded.values[:0]
        loaded.parameters = {
            name: view.expand(groups, *view.shape[1:]) for name, view in self.split(loaded.values).items()
        }
        loaded.squares = torch.zeros(groups, dtype=torch.float64, device=self.device, requires_grad=True)
        return loaded.squares

    def unload(self) -> None:
        """Put no adapter into any group."""
        self._loaded.parameters = {}
        self._loaded.squares = None

    def backward(self, loss: Tensor) -> None:
        """Overwrite `gradients` with those of a scalar loss.

        Args:
            loss: a scalar computed from the loaded adapters.
        """
        self._loaded.gradients.zero_()
        self.add_gradients(loss)

    def add_gradients(self, loss: Tensor) -> None:
        """Add those of a scalar loss to `gradients`.

        Args:
            loss: a scalar computed from the loaded adapters.
        """
        gradients = torch.autograd.grad(loss, list(self._loaded.parameters.values()))
        torch._foreach_add_(list(self._loaded.gradient_views.values()), list(gradients))

    def change_base(self, broadcast: Mapping[str, Tensor]) -> None:
        """Take over what an algorithm changes in the base; only of kinds that have factors there can be anything.

        Args:
            broadcast: what the server sends.
        """

    def flatten(self, adapter: Mapping[str, Tensor]) -> Tensor:
        """An adapter as one fp32 vector [parameters] in this model's order."""
        return torch.cat([adapter[name].reshape(-1).float() for name in self.shapes])

    def split(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views [groups, ...] of a [groups, parameters] buffer, by name."""
        parts = buffer.split([math.prod(shape) for shape in self.shapes.values()], 1)
        return {name: part.view(-1, *self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}

    def unflatten(self, row: Tensor) -> Adapter:
        """The named tensors of one [parameters] vector, copied to the CPU."""
        row = row.detach().to("cpu", copy=True)
        return {name: view[0].clone() for name, view in self.split(row[None]).items()}

    def _in_model(self, name: str) -> str:
        """What the model calls a tensor of the head."""
        return name.removeprefix(self.head_prefix)
