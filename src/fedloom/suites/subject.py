"""A model under test: the base of a run, or the base with an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.base import load_tokenizer
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.start import start_of
from fedloom.recipe import Recipe
from fedloom.run_directory import ADAPTER
from fedloom.runtime.process import usable_threads
from fedloom.session import open_model
from fedloom.suites.items import Likelihood
from fedloom.suites.likelihood import encode_pairs, log_likelihoods, positions_of


@dataclass(frozen=True)
class Bench:
    """What all subjects of one base share.

    Args:
        recipe: of the run: it names the base, and how prompts are phrased.
        model: the frozen base.
        grouped: its grouped adapters.
        tokenizer: its own.
        lanes: in which passes run side by side.
    """

    recipe: Recipe
    model: PreTrainedModel
    grouped: GroupedAdapter[Any]
    tokenizer: Any
    lanes: Lanes


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Args:
        name: adapter or base.
        bench: the base.
        adapter: fp32 tensors under PEFT's names, and what an algorithm sends beside them.
    """

    name: str
    bench: Bench
    adapter: Mapping[str, Tensor]

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]], families: Sequence[int] | None = None
    ) -> list[Likelihood]:
        """Score continuations.

        Args:
            pairs: (context, continuation) texts.
            families: for each pair a number: neighbours of one number share what their contexts have in common.
                Default: none do.

        Returns:
            One likelihood for each pair.
        """
        bench = self.bench
        alike = range(len(pairs)) if families is None else families
        return log_likelihoods(
            bench.model,
            bench.grouped,
            bench.lanes,
            self.adapter,
            encode_pairs(bench.tokenizer, pairs),
            alike,
            positions_of(bench.model, bench.tokenizer),
        )


def open_bench(recipe: Recipe) -> Bench:
    """Load a run's base.

    Args:
        recipe: the run.

    Returns:
        The base, with room for an adapter.
    """
    if start_of(recipe.model.adapter) is not None:
        # Where training started may be gone by now.
        adapter = recipe.model.adapter.model_copy(update={"start": None})
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"adapter": adapter})})
    model, grouped = open_model(recipe)
    threads = usable_threads(recipe.runtime.threads)
    return Bench(
        recipe, model, grouped, load_tokenizer(recipe.model), Lanes(threads, grouped.device, single=not grouped.cohorts)
    )


def base_subject(bench: Bench) -> Subject:
    """The base as it is."""
    return Subject("base", bench, bench.grouped.untuned(bench.grouped.initial(bench.recipe.seed)))


def adapter_subject(bench: Bench, directory: Path) -> Subject:
    """The adapter that a run has left.

    Args:
        bench: its base.
        directory: the run directory.

    Returns:
        The base with that adapter.
    """
    return Subject("adapter", bench, bench.grouped.read(directory / ADAPTER))
