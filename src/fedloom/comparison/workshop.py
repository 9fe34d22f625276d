"""What runs of a comparison share: data tokenised once for each seed, the base model loaded once, a base's results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedloom.aggregation import Tensors
from fedloom.aggregation.registry import algorithm_class
from fedloom.arms import Arm, build_arms, local_share, rounds_of
from fedloom.comparison.plan import FEDERATED
from fedloom.data.federated import FederatedData
from fedloom.model.base import pick_device
from fedloom.model.classes import classes_of
from fedloom.model.start import start_of
from fedloom.recipe import Recipe
from fedloom.recipe.pruning_schema import prunes
from fedloom.run_directory import DATA, LAYERS, write_json
from fedloom.runtime.cohort_size import GIB, memory_budget
from fedloom.runtime.process import return_freed_memory
from fedloom.session import Session, check_data, check_settings, open_model, over_model, prepare_data, shared_layers
from fedloom.training.layer_choice import LayerChoice
from fedloom.wire.encoding import encode, in_order


class Workshop:
    """Opens runs over shared data and a shared base model.

    Args:
        folder: of the comparison.
        processes: at work on it on this machine.
    """

    def __init__(self, folder: Path, processes: int = 1) -> None:
        self.folder = folder
        self.processes = processes
        self._checked: set[str] = set()
        self._data: dict[str, FederatedData] = {}
        self._model_key: tuple[str, ...] = ()
        self._model: Any = None
        self._base_results: dict[str, dict[str, Any]] = {}
        self._choices: dict[str, LayerChoice] = {}

    def data(self, recipe: Recipe) -> FederatedData:
        """A run's data, tokenised by whichever run needs them first, and checked against its other sections.

        Args:
            recipe: the run, with its seed.

        Returns:
            The data.

        Raises:
            UserError: for any mistake in the recipe's model or data section, or where they do not fit together.
        """
        settings = _text(recipe.model, recipe.runtime, recipe.federation)
        if settings not in self._checked:
            check_settings(recipe)
            self._checked.add(settings)
        key = f"{recipe.seed} {recipe.model.base} {_text(recipe.data)}"
        if key not in self._data:
            self._data[key], _ = prepare_data(recipe, self.folder / DATA)
            return_freed_memory()
        check_data(recipe, self._data[key])
        return self._data[key]

    def open(self, recipe: Recipe, path: Path, arm: str, until: int | None = None) -> tuple[Session, list[Arm]]:
        """Bring together what a run works with; an `Opener` once `arm` is given.

        Args:
            recipe: the run.
            path: its run directory.
            arm: what is trained: the federation (and fine_tuned after it), or a baseline alone.
            until: the round after which a trial stops for now; default: the arm's last.

        Returns:
            The session and the arms.
        """
        data = self.data(recipe)
        model, grouped = self._opened(recipe, data)
        session = over_model(self._share(recipe), path, data, model, grouped, neighbours=self.processes)
        if arm == FEDERATED and recipe.federation.layers is not None:
            session.layers = self._layers(session, path)
        arms = build_arms(session)
        federation = replace(arms[0], evaluate=self._remembering(session, arms[0]))
        if arm != FEDERATED:
            # The base is tested as everywhere, by a federation that has no rounds.
            arms = [replace(federation, rounds=0), next(one for one in arms if one.name == arm)]
        else:
            arms = [federation, *arms[1:]]
        if until is not None:
            # The schedule of learning rates is that of the whole run.
            arms = [replace(one, rounds=until) if one.name == arm else one for one in arms]
        return session, arms

    def rounds(self, recipe: Recipe, arm: str) -> int:
        """Rounds of an arm.

        Args:
            recipe: the run, with its seed.
            arm: federated, local or centralized.

        Returns:
            How many.
        """
        share = local_share(recipe, len(self.data(recipe).clients)) if arm == "local" else 1.0
        return rounds_of(share, recipe.federation.rounds)

    def _opened(self, recipe: Recipe, data: FederatedData) -> Any:
        """The base model with the recipe's adapters around it; of another model section, the one before is let go."""
        changes_base = algorithm_class(recipe.federation.algorithm.name).changes_base
        classes = classes_of(recipe.task, data.labels, data.label_words)
        # Where training starts from is no part of what is loaded.
        model = recipe.model.model_dump_json(exclude={"adapter": {"start"}})
        key = (model, _text(recipe.runtime), str(changes_base), str(classes), str(prunes(recipe)))
        # What lies below the lowest adapter is kept by example, and examples belong to their data.
        if self._model_key not in {key, (*key, data.fingerprint)}:
            self._model = None
            return_freed_memory()
            self._model = open_model(recipe, self.folder, classes)
            self._model_key = key if self._model[1].frozen_prefix is None else (*key, data.fingerprint)
        return self._model

    def _layers(self, session: Session, path: Path) -> LayerChoice:
        """The layers that a run's clients share; of runs that measure the same, only the first one does."""
        recipe, layers = session.recipe, session.recipe.federation.layers
        assert layers is not None
        # What clients train before they measure is the local section's.
        facts = _text(layers) if layers.warmup_steps is None else _text(layers, recipe.local)
        # Runs that start from different adapters share a base, but measure under what they start from.
        start = str(start_of(recipe.model.adapter))
        key = " ".join([*self._model_key, start, session.data.fingerprint, str(recipe.seed), facts])
        if key in self._choices and not (path / LAYERS).exists():
            write_json(path / LAYERS, self._choices[key].values())
        self._choices[key] = shared_layers(session, path)
        return self._choices[key]

    def _share(self, recipe: Recipe) -> Recipe:
        """The recipe with this process's share of the machine's memory, which no result depends on."""
        runtime = recipe.runtime
        if self.processes == 1 or runtime.cohort != "auto" or runtime.memory_gb is not None:
            return recipe
        budget = memory_budget(runtime, pick_device(runtime.device)) / self.processes / GIB
        return recipe.model_copy(update={"runtime": runtime.model_copy(update={"memory_gb": budget})})

    def _remembering(self, session: Session, arm: Arm) -> Callable[[Tensors, int], dict[str, Any]]:
        """Evaluations of an arm, those of the untuned base remembered: they are the same in many runs."""
        recipe = session.recipe
        facts = [*self._model_key, session.data.fingerprint, recipe.seed, recipe.evaluation.model_dump_json()]
        layers = recipe.federation.layers
        facts += [
            recipe.federation.private,
            layers is not None and layers.others,
            arm.algorithm.personal_adapters,
            session.grouped.own_layers,
        ]

        def evaluate(adapter: Tensors, done: int) -> dict[str, Any]:
            if done:
                return arm.evaluate(adapter, done)
            key = hashlib.sha256(repr(facts).encode() + encode(in_order(adapter))).hexdigest()
            if key not in self._base_results:
                self._base_results[key] = arm.evaluate(adapter, done)
            return self._base_results[key]

        return evaluate


def _text(*sections: Any) -> str:
    return " ".join(section.model_dump_json() for section in sections)
