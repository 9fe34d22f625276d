"""A model under test: the base of a run, or the base with an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation.registry import algorithm_class
from fedloom.data.conversation import Message
from fedloom.data.templates import Segment, Template, load_template
from fedloom.data.tokenizing import end_tokens, tokenize_prompt
from fedloom.errors import UserError
from fedloom.model.base import load_tokenizer
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.start import start_of
from fedloom.recipe import Recipe
from fedloom.run_directory import ADAPTER
from fedloom.runtime.process import usable_threads
from fedloom.session import open_model
from fedloom.suites.generating import generate, new_text
from fedloom.suites.items import Likelihood, Limits, Reply
from fedloom.suites.likelihood import encode_pairs, log_likelihoods, positions_of
from fedloom.suites.plain_model import PlainModel

BASE = "base"


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

    @cached_property
    def plain(self) -> PlainModel:
        """What texts are generated with."""
        return PlainModel(self.recipe, self.model, self.grouped)

    @cached_property
    def template(self) -> Template:
        """How the run phrases conversations."""
        return load_template(self.recipe.data.template, self.tokenizer)


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

    def answers(self, dialogues: Sequence[Sequence[Message]], limits: Limits) -> list[str]:
        """Answer conversations, phrased as the run phrases them.

        Args:
            dialogues: each ends with a message of the user.
            limits: of the answers.

        Returns:
            One answer each, without white space around it.
        """
        return [reply.text.strip() for reply in self.replies(dialogues, limits)]

    def completions(self, prompts: Sequence[str], limits: Limits) -> list[str]:
        """Let the model go on from plain texts.

        Args:
            prompts: none empty.
            limits: of what it adds.

        Returns:
            What it adds to each, white space included.
        """
        return [reply.text for reply in self.replies(prompts, limits)]

    def replies(self, prompts: Sequence[str | Sequence[Message]], limits: Limits) -> list[Reply]:
        """Let the model go on from prompts.

        Args:
            prompts: plain texts, none empty, or conversations, which the run's template phrases.
            limits: of what it adds.

        Returns:
            One reply for each, white space around it included.
        """
        tokenizer, template = self.bench.tokenizer, self.bench.template
        model = self.bench.plain.with_adapter(None if self.name == BASE else self.adapter)
        own = model.generation_config.eos_token_id
        ends = {*end_tokens(template, tokenizer), *(own if isinstance(own, list) else [] if own is None else [own])}
        segments = [
            [Segment(prompt, False)] if isinstance(prompt, str) else template.prompt_segments(prompt)
            for prompt in prompts
        ]
        tokens = [tokenize_prompt(some, tokenizer) for some in segments]
        found = generate(model, tokens, limits, tokenizer, sorted(ends))
        return [
            Reply(new_text(tokenizer, one.prompt, one.tokens, limits.stop), one.cut_off, one.truncated) for one in found
        ]


def check_evaluable(recipe: Recipe, where: str) -> None:
    """Check that a run has one model for everybody that answers with text.

    Args:
        recipe: the run.
        where: for error messages.

    Raises:
        UserError: for classification, and where clients keep a part of the adapter.
    """
    if recipe.task.kind == "classification":
        raise UserError(f"{where}: is a classification; suites ask models that answer with text")
    layers = recipe.federation.layers
    kept = recipe.federation.private or algorithm_class(recipe.federation.algorithm.name).shared != "both"
    if kept or (layers is not None and layers.others == "private"):
        raise UserError(
            f"{where}: its clients keep a part of the adapter to themselves, and nobody uses the shared part alone",
            hint="a run's own test (`fedloom evaluate DIR`) has every client use its own adapter",
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
    return Subject(BASE, bench, bench.grouped.untuned(bench.grouped.initial(bench.recipe.seed)))


def adapter_subject(bench: Bench, directory: Path) -> Subject:
    """The adapter that a run has left.

    Args:
        bench: its base.
        directory: the run directory.

    Returns:
        The base with that adapter.
    """
    return Subject("adapter", bench, bench.grouped.read(directory / ADAPTER))
