"""What clients compute and send in a round that is still to come, for a simulated network to be planned with.

Nothing is measured: operations follow from the sizes of the model and from the tokens of the batches that a client will
draw, bits are those of what will cross, as it will be encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation import Algorithm, Tensors
from fedloom.aggregation.kept_units import KEPT, cut, pack_kept
from fedloom.data.shards import ExampleSet
from fedloom.model.flop import base_size
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.ranks import cut_to_rank
from fedloom.model.units import find_blocks, kept_units, ties_of, unit_count
from fedloom.recipe import Recipe
from fedloom.recipe.pruning_schema import prunes
from fedloom.recipe.ranks import client_rank
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.crossing import crossing
from fedloom.training.batches import round_batches
from fedloom.wire.encoding import encode
from fedloom.wireless.network import FROZEN_FLOP, TRAINED_FLOP


class SimulatedLoad:
    """What the rounds of a run ask of its clients.

    Args:
        model: the base, with adapters on it.
        grouped: the adapters' layout.
        recipe: the run.
        examples: gives a client's training examples.
        algorithm: whose clients' half says what they train and send.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grouped: GroupedAdapter[Any],
        recipe: Recipe,
        examples: Callable[[str], ExampleSet],
        algorithm: Algorithm,
    ) -> None:
        self.recipe = recipe
        self.examples = examples
        self.algorithm = algorithm
        self.base = base_size(model, grouped.shapes)
        self.blocks = find_blocks(model) if prunes(recipe) else []
        self.ties = ties_of(self.blocks, grouped.shapes)
        # Only sizes are of interest, and training changes none.
        self.adapter = algorithm.prepared(grouped.initial(recipe.seed))
        # The clients' own adapter is trained beside the shared one, on the same batches.
        self.passes = 1 if algorithm.personal is None else 2
        self.full_rank = max((shape[0] for name, shape in grouped.shapes.items() if ".lora_A." in name), default=0)

    def of_round(self, plan: RoundPlan, beside: Tensors) -> RoundLoad:
        """What a round asks of any client.

        Args:
            plan: the round; who takes part need not be known.
            beside: what the server sends beside the adapter.

        Returns:
            The load.
        """
        return RoundLoad(self, plan, beside)

    def rank(self, client: str) -> int:
        """The rank that a client's adapter has at first: where it lowers its rank itself, nobody knows beforehand."""
        return client_rank(self.recipe.model.adapter, self.recipe.seed, client) or self.full_rank

    def kept(self, rate: float) -> Tensor | None:
        """Units that a client keeps, as many of each block as whichever it will choose; None: all."""
        if not rate:
            return None
        return kept_units(torch.zeros(unit_count(self.blocks)), self.blocks, rate)


class RoundLoad:
    """What one round asks of its clients; see `participation.cell.Load`.

    Args:
        run: of which it is a round.
        plan: the round; who takes part need not be known.
        beside: what the server sends beside the adapter.
    """

    def __init__(self, run: SimulatedLoad, plan: RoundPlan, beside: Tensors) -> None:
        self._run = run
        self._plan = plan
        self._beside = {name: value for name, value in beside.items() if not name.startswith("version/")}
        self._names = crossing(run.adapter, plan, run.algorithm, run.recipe.federation.private)
        self._sizes: dict[Any, int] = {}

    def flop(self, client: str, rate: float) -> float:
        """Operations of a client's training; see `participation.cell.Load`.

        Args:
            client: its name.
            rate: the share of the base's units that it leaves out.

        Returns:
            For each token 4 FLOP for an entry of the base's layers and 6 for one that is trained, and for each token
            with a label 4 for one of the output head.
        """
        run, kept = self._run, self._run.kept(rate)
        tokens, labels = self._tokens(client)
        trained = self._left(self._names.trained, kept)
        entries = sum(run.base.layers.values()) if kept is None else run.base.kept(run.blocks, kept)
        passed = FROZEN_FLOP * entries + TRAINED_FLOP * sum(value.numel() for value in trained.values())
        return run.passes * (tokens * passed + labels * FROZEN_FLOP * run.base.head)

    def upload_bits(self, client: str, rate: float) -> float:
        """Bits of a client's update; see `participation.cell.Load`.

        Args:
            client: its name.
            rate: the share of the base's units that it leaves out.

        Returns:
            Of the message as it will be encoded.
        """
        run, kept = self._run, self._run.kept(rate)
        delta = self._at_rank(self._left(self._names.up, kept), client)
        # Tensors that lie in the same place can't be encoded together.
        extra = {f"{key}/{name}": delta[name].clone() for key in run.algorithm.client.sends for name in self._names.up}
        units = {} if kept is None else {KEPT: pack_kept(kept)}
        return 8.0 * self._size({**delta, **extra, **units})

    def download_bits(self, clients: Sequence[str]) -> float:
        """Bits of the broadcast, which has to reach the client that is sent most; see `participation.cell.Load`.

        Args:
            clients: all that it is sent to.

        Returns:
            Of the largest message as it will be encoded.
        """
        adapter = {name: value for name, value in self._run.adapter.items() if name in self._names.down}
        return 8.0 * max(self._size({**self._at_rank(adapter, client), **self._beside}) for client in clients)

    def _left(self, names: Iterable[str], kept: Tensor | None) -> dict[str, Tensor]:
        """Tensors of the adapter without the rows and columns of units that are left out."""
        whole = {name: self._run.adapter[name] for name in names}
        return whole if kept is None else cut(whole, self._run.ties, kept)

    def _at_rank(self, tensors: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        rank = self._run.rank(client)
        # As the exchange does: it cuts where ranks differ.
        cuts = self._run.algorithm.mixed_ranks and rank < self._run.full_rank
        return cut_to_rank(tensors, rank) if cuts else dict(tensors)

    def _size(self, tensors: Mapping[str, Tensor]) -> int:
        key = tuple((name, value.shape) for name, value in tensors.items())
        if key not in self._sizes:
            self._sizes[key] = len(encode(tensors))
        return self._sizes[key]

    def _tokens(self, client: str) -> tuple[float, float]:
        """Tokens of a client's batches, and those of them with a label."""
        plan, recipe, examples = self._plan, self._run.recipe, self._run.examples(client)
        batches = round_batches(len(examples), recipe.local, plan.batch_size, recipe.seed, plan.round, client)
        drawn = np.concatenate(batches)
        return float(examples.lengths[drawn].sum()), float(examples.label_counts[drawn].sum())
