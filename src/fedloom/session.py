"""What a run works with: tokenizer, data, base model, adapters, runtime, evaluator; mistakes come before weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from fedloom.aggregation.registry import algorithm_class
from fedloom.data.allocation import check_numbers
from fedloom.data.federated import FederatedData, prepare
from fedloom.data.shards import ExampleSet
from fedloom.data.splits import SPLITS
from fedloom.evaluation.evaluator import Evaluator, check_cross, check_examples
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import load_base, load_tokenizer, pick_device, quiet_libraries
from fedloom.model.check import check_model, check_positions
from fedloom.model.checkpointing import make_layers_repeatable
from fedloom.model.classes import Classes, classes_of
from fedloom.model.decoder_layer import frozen_layers, use_own_layers
from fedloom.model.frozen_prefix import ActivationStore, FrozenPrefix
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.pruned_pass import make_prunable
from fedloom.model.start import first_adapter, start_of
from fedloom.model.tensor_names import check_layer_numbers, check_patterns
from fedloom.model.units import find_blocks
from fedloom.participation import check_participation
from fedloom.recipe import Recipe
from fedloom.recipe.combinations import check_named_clients
from fedloom.recipe.preference_schema import REFERENCE_FREE
from fedloom.recipe.pruning_schema import prunes
from fedloom.run_directory import CLIENTS, DATA, LAYERS, REFERENCES, write_json
from fedloom.runtime import Runtime
from fedloom.runtime.attack import Attack
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.distributed import DistributedRuntime
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.runtime.layer_stage import choose_layers
from fedloom.runtime.process import keep_freed_memory, return_freed_memory, usable_threads
from fedloom.runtime.shared_lanes import SharedLanes
from fedloom.training.curriculum import check_batches
from fedloom.training.layer_choice import LayerChoice
from fedloom.training.objectives import LabelObjective, Objective, PreferenceObjective
from fedloom.training.references import ReferenceAdapter, References

if TYPE_CHECKING:
    # A run in one process never imports it.
    from fedloom.runtime.process_group import ProcessGroup

POOLED = "pooled"
GIB = 1 << 30
PREFIX_CACHE_GB = 4.0


@dataclass
class Session:
    """Everything a run's loop calls on.

    `layers` are those that are shared, where the recipe has them chosen; `reference` is what preferences are compared
    with.
    """

    recipe: Recipe
    data: FederatedData
    model: PreTrainedModel
    grouped: GroupedAdapter[Any]
    store: ClientStore
    runtime: Runtime
    evaluator: Evaluator
    layers: LayerChoice | None = None
    reference: ReferenceAdapter | None = None


def prepare_data(recipe: Recipe, directory: Path) -> tuple[FederatedData, Any]:
    """Tokenise the clients' data (or reopen it) after checking the model's settings.

    Args:
        recipe: the run.
        directory: where the shards go.

    Returns:
        The data and the tokenizer.

    Raises:
        UserError: for any mistake in the recipe's model or data section.
    """
    check_settings(recipe)
    tokenizer = load_tokenizer(recipe.model)
    data = prepare(recipe, tokenizer, directory)
    check_positions(recipe.model, data.longest, recipe.task)
    return data, tokenizer


def check_settings(recipe: Recipe) -> None:
    """Check a run's device, its model section and what its clients keep to themselves; no weight is read.

    Args:
        recipe: the run.

    Raises:
        UserError: for any mistake in them.
    """
    quiet_libraries()
    pick_device(recipe.runtime.device)
    layout = check_model(recipe.model, recipe.runtime, recipe.task, prunes(recipe))
    if recipe.federation.private:
        shared = algorithm_class(recipe.federation.algorithm.name).shared
        check_patterns(layout.shapes, shared, recipe.federation.private)
    if recipe.federation.layers is not None:
        check_layer_numbers(layout.shapes, recipe.federation.layers)


def open_model(
    recipe: Recipe, scratch: Path | None = None, classes: Classes | None = None
) -> tuple[PreTrainedModel, GroupedAdapter[Any]]:
    """Load the base model and put the adapter on it.

    Args:
        recipe: the run.
        scratch: where activations of frozen layers may be kept; default: nowhere.
        classes: what examples are told apart by, where they are: the data's.

    Returns:
        The frozen base and its adapters.
    """
    keep_freed_memory()
    model = load_base(recipe.model, pick_device(recipe.runtime.device), classes)
    grouped = build_adapter(model, recipe.model.adapter, classes)
    changes_base = algorithm_class(recipe.federation.algorithm.name).changes_base
    if grouped.fits_own_layers and not changes_base and recipe.model.quantization is None:
        # Own layers multiply frozen weights side by side, and know of no change to one of them.
        use_own_layers(model, grouped)
    pruned = prunes(recipe)
    if pruned:
        make_prunable(model, grouped, find_blocks(model))
    make_layers_repeatable(model, grouped)
    # What clients leave out of the lowest layers differs, and with it what comes out of these.
    apart = (not changes_base or grouped.device.type != "cpu") and not pruned
    frozen = frozen_layers(model, grouped.layers) if apart else 0
    if frozen:
        gigabytes = PREFIX_CACHE_GB if recipe.runtime.prefix_cache_gb is None else recipe.runtime.prefix_cache_gb
        store = ActivationStore(scratch, gigabytes * GIB) if scratch is not None and gigabytes else None
        grouped.frozen_prefix = FrozenPrefix(model, grouped, frozen, store)
    return model, grouped


def open_data(recipe: Recipe, directory: Path) -> FederatedData:
    """Prepare a run's data and check that there is something to evaluate on.

    Args:
        recipe: the run.
        directory: the run directory.

    Returns:
        The data.
    """
    data, _ = prepare_data(recipe, directory / DATA)
    return_freed_memory()
    check_data(recipe, data)
    return data


def check_data(recipe: Recipe, data: FederatedData) -> None:
    """Check that a run's data have what its other sections ask for.

    Args:
        recipe: the run.
        data: of the run.

    Raises:
        UserError: nothing to evaluate on, too few clients, clients that there are not, or a curriculum without effect.
    """
    # Data may have been prepared for a run whose federation is another one.
    check_numbers(recipe, len(data.clients))
    check_examples(data, recipe.evaluation.split)
    check_cross(data, recipe.evaluation)
    check_batches(recipe.local, int(data.sizes()[: len(data.clients), SPLITS.index("train")].max()))
    federation = recipe.federation
    check_participation(federation.participation, federation.clients_per_round, data.clients)
    check_named_clients(recipe, data.clients)


def open_session(recipe: Recipe, directory: Path) -> Session:
    """Bring together what a run works with.

    Args:
        recipe: the run.
        directory: the run directory.

    Returns:
        The session.
    """
    session = assemble(recipe, directory, open_data(recipe, directory))
    if recipe.federation.layers is not None:
        session.layers = shared_layers(session, directory)
    return session


def shared_layers(session: Session, directory: Path) -> LayerChoice:
    """The layers that clients share: those once written to the run directory, or else chosen now.

    Args:
        session: what the run works with; its recipe has federation.layers.
        directory: the run directory.

    Returns:
        The choice.
    """
    config, path = session.recipe.federation.layers, directory / LAYERS
    assert config is not None
    if path.exists():
        return LayerChoice(**json.loads(path.read_text(encoding="utf-8")))
    runtime = session.runtime.in_process if isinstance(session.runtime, DistributedRuntime) else session.runtime
    assert isinstance(runtime, InProcessRuntime)
    choice = choose_layers(runtime, config, session.data.clients)
    write_json(path, choice.values())
    return choice


def assemble(recipe: Recipe, directory: Path, data: FederatedData, group: ProcessGroup | None = None) -> Session:
    """Load the base model and bring it together with the data.

    Args:
        recipe: the run; its runtime section is this process's.
        directory: the run directory.
        data: of the run.
        group: the processes that share the work, where there are several.

    Returns:
        The session.
    """
    model, grouped = open_model(recipe, directory, classes_of(recipe.task, data.labels, data.label_words))
    return over_model(recipe, directory, data, model, grouped, group)


def over_model(
    recipe: Recipe,
    directory: Path,
    data: FederatedData,
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    group: ProcessGroup | None = None,
    neighbours: int = 1,
) -> Session:
    """Bring the data together with a base model that is loaded: many runs over one model, one after another.

    Args:
        recipe: the run; of an equal model section.
        directory: the run directory.
        data: of the run.
        model: the frozen base.
        grouped: its adapters.
        group: the processes that share the work, where there are several.
        neighbours: processes of this machine that are at work on runs of their own, this one among them.

    Returns:
        The session.
    """
    store = ClientStore(directory / CLIENTS)
    threads, single = usable_threads(recipe.runtime.threads), not grouped.cohorts
    if group is None:
        # Neighbours share the cores out as lanes, but bits may depend on the threads of what is computed alone.
        part = threads if single else usable_threads(recipe.runtime.threads, neighbours)
        lanes = passes = Lanes(part, grouped.device, threads_alone=threads, single=single)
    else:
        # What can't be shared out gets the threads of a single process: meanwhile the others are waiting.
        part = usable_threads(recipe.runtime.threads, group.place.local_size)
        lanes = Lanes(part, grouped.device, threads_alone=threads, single=single)
        passes = SharedLanes(lanes, grouped.device, group)
        group.device = grouped.device

    def train_examples(client: str) -> ExampleSet:
        if client == POOLED and POOLED not in data.clients:
            return data.all_examples("train")
        return data.examples(client, "train")

    planned = recipe.federation.attack
    labels = len(data.labels) or model.config.vocab_size
    attack = None if planned is None else Attack(planned, recipe.seed, data.clients, labels)
    reference = None if recipe.task.kind != "dpo" else ReferenceAdapter(lambda: _reference(recipe, grouped))
    objective = _objective(recipe, directory, data, model, grouped, lanes, reference)
    in_process = InProcessRuntime(model, grouped, recipe, train_examples, store, lanes, objective, attack)
    runtime = in_process if group is None else DistributedRuntime(in_process, group)
    evaluator = Evaluator(model, grouped, recipe, data, passes, reference)
    return Session(recipe, data, model, grouped, store, runtime, evaluator, reference=reference)


def _objective(
    recipe: Recipe,
    directory: Path,
    data: FederatedData,
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    lanes: Lanes,
    reference: ReferenceAdapter | None,
) -> Objective:
    """What clients minimise."""
    task = recipe.task
    if reference is None:
        return LabelObjective()
    references = None
    if task.loss not in REFERENCE_FREE:
        # A run goes on with the same base and adapter to start from, or not at all.
        path = directory / REFERENCES / f"{data.fingerprint}.bin"
        references = References(path, data.rows, model, grouped, lanes, reference, data.longest)
    return PreferenceObjective(task, data.longest, references)


def _reference(recipe: Recipe, grouped: GroupedAdapter[Any]) -> Adapter:
    """What preferences are compared with: the adapter that training starts from, or the base as it is."""
    config = recipe.model.adapter
    first = first_adapter(grouped, config, recipe.seed)
    return grouped.untuned(first) if start_of(config) is None else first
