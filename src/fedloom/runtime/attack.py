"""Simulated attackers: clients that send something else than what they have learnt, to test robust aggregation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.data.shards import ExampleSet
from fedloom.randomness import numpy_generator, torch_generator
from fedloom.recipe.federation_schema import AttackConfig


class Attack:
    """The attackers of a run, the same in every round; drawn by the run's seed.

    Args:
        config: the recipe's.
        seed: the recipe's.
        clients: all training clients.
        labels: how many labels there are: classes, or tokens the base model knows.
    """

    def __init__(self, config: AttackConfig, seed: int, clients: Sequence[str], labels: int) -> None:
        self.config = config
        self.seed = seed
        self.labels = labels
        count = math.floor(config.share * len(clients) + 1e-9)
        drawn = numpy_generator(seed, "attackers").choice(len(clients), count, replace=False)
        self.attackers = {clients[int(row)] for row in drawn}

    def examples(self, client: str, examples: ExampleSet) -> ExampleSet:
        """What a client trains on: the examples, or an attacker's, whose answers, classes or preferences are flipped.

        Args:
            client: its name.
            examples: its own.

        Returns:
            The examples to train on.
        """
        if self.config.kind != "label_flip" or client not in self.attackers:
            return examples
        if len(examples) and (examples.rejected(0) is not None or examples.desirable(0) is not None):
            return FlippedPreferences(examples)
        flipped = FlippedExamples if examples.labels is None else FlippedClasses
        return flipped(examples, self.labels)

    def poisoned(self, delta: Mapping[str, Tensor], client: str, round_number: int) -> dict[str, Tensor]:
        """What a client sends.

        Args:
            delta: what it has learnt.
            client: its name.
            round_number: the round.

        Returns:
            The same, or what an attacker makes of it.
        """
        kind, factor = self.config.kind, self.config.strength
        if client not in self.attackers:
            return dict(delta)
        if kind == "nan":
            return {name: torch.full_like(value, math.nan) for name, value in delta.items()}
        assert factor is not None
        if kind == "noise":
            generator = torch_generator(self.seed, "attack", round_number, client)
            size = math.sqrt(sum(float(value.double().square().sum()) for value in delta.values()))
            numbers = sum(value.numel() for value in delta.values())
            deviation = factor * size / math.sqrt(numbers)
            return {
                name: deviation * torch.randn(value.shape, generator=generator).to(value.dtype)
                for name, value in delta.items()
            }
        sign = -1.0 if kind == "sign_flip" else 1.0
        return {name: sign * factor * value for name, value in delta.items()}


class FlippedExamples(ExampleSet):
    """Examples in whose answers token t of a vocabulary of V is replaced by V - 1 - t, as class labels are flipped.

    Args:
        examples: the honest ones.
        vocabulary: V.
    """

    def __init__(self, examples: ExampleSet, vocabulary: int) -> None:
        super().__init__(examples._arrays, examples._indices)
        self._vocabulary = vocabulary

    def tokens(self, place: int) -> NDArray[np.int64]:
        """See `ExampleSet`."""
        honest = super().tokens(place)
        return np.where(self.trained(place), self._vocabulary - 1 - honest, honest)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FlippedExamples:
        """See `ExampleSet`: of flipped examples, flipped ones."""
        return FlippedExamples(super().subset(indices), self._vocabulary)

    def key(self, place: int) -> None:
        """None: what is kept of the honest example is not this one's."""


class FlippedClasses(ExampleSet):
    """Examples whose class c of C is replaced by C - 1 - c; an odd number of classes leaves the middle one as it is.

    Args:
        examples: the honest ones.
        classes: C.
    """

    def __init__(self, examples: ExampleSet, classes: int) -> None:
        super().__init__(examples._arrays, examples._indices)
        self._classes = classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `ExampleSet`."""
        honest = super().labels
        assert honest is not None
        return self._classes - 1 - honest

    def label(self, place: int) -> int:
        """See `ExampleSet`."""
        return int(self.labels[place])

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FlippedClasses:
        """See `ExampleSet`: of flipped examples, flipped ones."""
        return FlippedClasses(super().subset(indices), self._classes)


class FlippedPreferences(ExampleSet):
    """Preferences the other way round: chosen is rejected, desirable is undesirable.

    Args:
        examples: the honest ones.
    """

    def __init__(self, examples: ExampleSet) -> None:
        super().__init__(examples._arrays, examples._indices)

    def tokens(self, place: int) -> NDArray[np.int64]:
        """See `ExampleSet`."""
        other = super().rejected(place)
        return super().tokens(place) if other is None else other[0]

    def trained(self, place: int) -> NDArray[np.bool_]:
        """See `ExampleSet`."""
        other = super().rejected(place)
        return super().trained(place) if other is None else other[1]

    def rejected(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
        """See `ExampleSet`."""
        if super().rejected(place) is None:
            return None
        return super().tokens(place), super().trained(place)

    def desirable(self, place: int) -> bool | None:
        """See `ExampleSet`."""
        honest = super().desirable(place)
        return None if honest is None else not honest

    def key(self, place: int) -> int:
        """Of a pair a negative number, as what is kept of the honest one is the other way round."""
        row = int(self._indices[place])
        return row if super().rejected(place) is None else -1 - row

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FlippedPreferences:
        """See `ExampleSet`: of flipped examples, flipped ones."""
        return FlippedPreferences(super().subset(indices))
