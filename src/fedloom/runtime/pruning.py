"""What clients leave out of the base in a round: how much each unit matters to them, kept from round to round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloom.aggregation.kept_units import KEPT, cut, pack_kept
from fedloom.data.shards import ExampleSet
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.units import Block, kept_units, ties_of
from fedloom.randomness import numpy_generator
from fedloom.recipe.pruning_schema import PruningConfig
from fedloom.runtime.task import ClientTask
from fedloom.training.client import Omission
from fedloom.training.entries import MaskedEntries

# Given an adapter and some of a client's examples, fp32 [units]; see `unit_importance`.
MeasureImportance = Callable[[Adapter, ExampleSet, np.ndarray], Tensor]
# Of a client's state.
IMPORTANCE, ROUNDS_SINCE = "importance", "rounds_since"
# A client on a CPU is faster alone over smaller weights than with others under masks where its batches save this many
# multiplications in a layer: what is gained has to pay for passes of its own. Measured by benchmarks/pruning.py.
WORTH_SLICING = 3e7


@dataclass(frozen=True)
class Prunable:
    """What pruning of a run's base needs.

    Args:
        config: the recipe's section.
        blocks: of the base.
        weights: of a layer that units belong to.
        measure: how much its units matter.
    """

    config: PruningConfig
    blocks: Sequence[Block]
    weights: float
    measure: MeasureImportance


class ClientPruning:
    """What clients leave out in one round.

    Args:
        grouped: the adapters' layout.
        prunable: how the base is pruned.
        seed: the recipe's seed.
        round_number: the round.
        trained: names of the tensors that are trained in this round.
    """

    def __init__(
        self,
        grouped: GroupedAdapter[Any],
        prunable: Prunable,
        seed: int,
        round_number: int,
        trained: Collection[str],
    ) -> None:
        self._grouped = grouped
        self._prunable = prunable
        self._seed = seed
        self._round = round_number
        self._trained = trained
        self._ties = ties_of(prunable.blocks, grouped.shapes)
        # What clients at work have chosen, and what they keep of it.
        self._kept: dict[str, Tensor] = {}
        self._states: dict[str, dict[str, Tensor]] = {}

    def choose(self, task: ClientTask, start: Adapter, stored: Mapping[str, Tensor], rate: float) -> Omission:
        """Choose what a client leaves out; where it does not know yet what matters to it, that is measured now.

        Args:
            task: the client's round.
            start: the adapter that it is sent.
            stored: its state of an earlier round; empty at first.
            rate: share of the units, above 0.

        Returns:
            What it leaves out.
        """
        config, blocks = self._prunable.config, self._prunable.blocks
        since = int(stored[ROUNDS_SINCE]) + 1 if stored else 0
        importance = stored.get(IMPORTANCE)
        if importance is None or since == config.refresh:
            since, importance = 0, self._measured(task, start)
        kept = kept_units(importance, blocks, rate)
        self._kept[task.client] = kept
        self._states[task.client] = {IMPORTANCE: importance, ROUNDS_SINCE: torch.tensor(since)}
        return Omission(blocks, kept, self._is_sliced(task, rate))

    def entries(self, client: str) -> MaskedEntries:
        """The entries of the adapter that a client trains: those of units that it kept, and those of none.

        Args:
            client: its name, after `choose`.

        Returns:
            The entries.
        """
        tied, parts = [name for name in self._grouped.shapes if name in self._ties], []
        for name in tied:
            tie, mask = self._ties[name], torch.zeros(self._grouped.shapes[name], dtype=torch.bool)
            parts.append(mask.index_fill(tie.dim, tie.places(self._kept[client]), True).reshape(-1))
        return MaskedEntries(self._grouped, self._trained, tied, torch.cat(parts or [torch.zeros(0)]))

    def sent(self, client: str, delta: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a client sends of its update.

        Args:
            client: its name.
            delta: of the whole adapter, or of one of its factors.

        Returns:
            The rows and columns of units that it kept, and beside them which these are.
        """
        if client not in self._kept:
            return dict(delta), {}
        kept = self._kept.pop(client)
        return cut(delta, self._ties, kept), {KEPT: pack_kept(kept)}

    def state(self, client: str) -> dict[str, Tensor]:
        """What a client remembers after its round; empty where it left out nothing."""
        return self._states.pop(client, {})

    def _is_sliced(self, task: ClientTask, rate: float) -> bool:
        """Which way is faster, by what is the client's own: its bits must not depend on who shares its cohort."""
        compute = self._prunable.config.compute
        if compute != "auto":
            return compute == "sliced"
        if self._grouped.device.type != "cpu":
            # Short passes of single clients would leave most of an accelerator idle.
            return False
        lengths = task.examples.lengths
        tokens = sum(int(lengths[batch].sum()) for batch in task.batches) / len(task.batches)
        return rate * tokens * self._prunable.weights >= WORTH_SLICING

    def _measured(self, task: ClientTask, start: Adapter) -> Tensor:
        draw = numpy_generator(self._seed, "pruning", self._round, task.client).permutation(len(task.examples))
        chosen = np.sort(draw[: self._prunable.config.calibration_examples])
        return self._prunable.measure(start, task.examples, chosen)
