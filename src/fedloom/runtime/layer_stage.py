"""The stage before the first round: clients measure layers under the fresh adapter, the server chooses those shared."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fedloom.model.example_sets import examples_at
from fedloom.model.grouped_adapter import Adapter
from fedloom.model.layer_probe import probed
from fedloom.model.packing import Example
from fedloom.model.ranks import cut_to_rank, pad_to_layout
from fedloom.model.start import first_adapter
from fedloom.model.tensor_names import adapted_layers
from fedloom.randomness import numpy_generator
from fedloom.recipe.layers_schema import LayersConfig
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.training.batches import round_batches
from fedloom.training.client import ClientWork, LocalTraining
from fedloom.training.cohort import train_cohort
from fedloom.training.layer_choice import LayerChoice, choose, number_of_layers, weighted_mean
from fedloom.training.layer_scores import layer_outputs, output_movements, similarity_score
from fedloom.training.optimizers import local_optimizer
from fedloom.training.spectrum import adapter_spectrum, lossless_share_of_density
from fedloom.wire.encoding import encode

# Examples of several clients share a pass.
TOKENS_PER_PASS = 4096


def choose_layers(runtime: InProcessRuntime, config: LayersConfig, clients: Sequence[str]) -> LayerChoice:
    """Let every client measure the layers, and choose; a function of recipe, data and base alone.

    Args:
        runtime: of the run, before its first round.
        config: the recipe's section.
        clients: all training clients.

    Returns:
        The choice.
    """
    began = time.perf_counter()
    grouped, seed = runtime.grouped, runtime.recipe.seed
    layers = adapted_layers(grouped.shapes)
    if config.all_layers:
        return LayerChoice(layers, layers)
    fresh = first_adapter(grouped, runtime.recipe.model.adapter, seed)
    weights = [float(len(runtime.train_examples(client))) for client in clients]
    scores: list[list[float]] | None = None
    keep_shares: dict[str, float] = {}
    if config.choose == "importance":
        scores = _movements(runtime, config, clients, fresh, layers)
    elif config.choose == "similarity":
        scores = _similarities(runtime, config, clients, fresh, layers)
    if config.lossless:
        keep_shares = dict(zip(clients, _keep_shares(runtime, config, clients, fresh), strict=True))
    importances = None
    if scores is not None:
        importances = [weighted_mean(column, weights) for column in zip(*scores, strict=True)]
    keep_share = weighted_mean(list(keep_shares.values()), weights) if keep_shares else None
    chosen = choose(config, layers, importances, number_of_layers(config, len(layers), keep_share), seed)
    report = {name: torch.zeros(1, dtype=torch.float64) for name, sent in (("keep_share", keep_shares),) if sent}
    if scores is not None:
        report["importances"] = torch.zeros(len(layers), dtype=torch.float64)
    return LayerChoice(
        layers,
        chosen,
        importances,
        keep_share,
        keep_shares,
        # Each client tells its number of examples with what it has measured, and is told the choice.
        bytes_up=len(clients) * len(encode({**report, "examples": torch.zeros(1)})) if report else 0,
        bytes_down=len(clients) * len(encode({"layers": torch.tensor(chosen)})),
        seconds=time.perf_counter() - began,
    )


def measured_on(examples: int, limit: int, seed: int, client: str) -> np.ndarray:
    """The examples of a client that layers are measured on: a keyed draw, of all where there are few.

    Args:
        examples: number of its training examples.
        limit: at most so many.
        seed: the recipe's seed.
        client: its name.

    Returns:
        int64 indices, ascending.
    """
    order = numpy_generator(seed, "layer_examples", 0, client).permutation(examples)
    return np.sort(order[:limit])


def _movements(
    runtime: InProcessRuntime, config: LayersConfig, clients: Sequence[str], fresh: Adapter, layers: Sequence[int]
) -> list[list[float]]:
    """The importance of each layer to each client: the mean over its examples."""
    assert config.examples is not None
    assert config.noise is not None
    limit, noise = config.examples, config.noise
    model, grouped, seed = runtime.model, runtime.grouped, runtime.recipe.seed
    runtime.grouped.change_base({})
    owners: list[int] = []

    def passes() -> Iterator[list[Example]]:
        filling: list[Example] = []
        for place, client in enumerate(clients):
            examples = runtime.train_examples(client)
            for example in examples_at(examples, measured_on(len(examples), limit, seed, client)):
                tokens = sum(len(other.tokens) for other in filling) + len(example.tokens)
                if filling and (tokens > TOKENS_PER_PASS or (not grouped.cohorts and owners[-1] != place)):
                    yield filling
                    filling = []
                filling.append(example)
                owners.append(place)
        if filling:
            yield filling

    sums, counts = np.zeros((len(clients), len(layers))), np.zeros(len(clients))
    done = 0
    with probed(model, grouped, layers) as probe:

        def measure(examples: list[Example]) -> np.ndarray:
            return output_movements(model, grouped, probe, fresh, examples, layers, noise)

        for movements in runtime.lanes.map(measure, passes()):
            for row in movements:
                sums[owners[done]] += row
                counts[owners[done]] += 1
                done += 1
    means: list[list[float]] = (sums / counts[:, None]).tolist()
    return means


def _similarities(
    runtime: InProcessRuntime, config: LayersConfig, clients: Sequence[str], fresh: Adapter, layers: Sequence[int]
) -> list[list[float]]:
    """The score of each layer by how alike each client's examples are to it."""
    assert config.examples is not None
    limit, seed = config.examples, runtime.recipe.seed
    runtime.grouped.change_base({})
    with probed(runtime.model, runtime.grouped, layers) as probe:

        def measure(client: str) -> list[float]:
            examples = runtime.train_examples(client)
            outputs: list[list[torch.Tensor]] = [[] for _ in layers]
            for some in _short_passes(examples_at(examples, measured_on(len(examples), limit, seed, client))):
                found = layer_outputs(runtime.model, runtime.grouped, probe, fresh, some, layers)
                for layer, rows in zip(outputs, found, strict=True):
                    layer.extend(rows)
            return [similarity_score(layer) for layer in outputs]

        return list(runtime.lanes.map(measure, clients))


def _short_passes(examples: Sequence[Example]) -> Iterator[list[Example]]:
    filling: list[Example] = []
    for example in examples:
        if filling and sum(len(other.tokens) for other in filling) + len(example.tokens) > TOKENS_PER_PASS:
            yield filling
            filling = []
        filling.append(example)
    yield filling


def _keep_shares(
    runtime: InProcessRuntime, config: LayersConfig, clients: Sequence[str], fresh: Adapter
) -> Iterator[float]:
    """Train every client alone for a few steps, as a round would, and let it measure; nothing of it is kept."""
    recipe, grouped = runtime.recipe, runtime.grouped
    local = recipe.local.model_copy(update={"steps": config.warmup_steps, "epochs": None})
    training = LocalTraining(local_optimizer(local), local.learning_rate, local.max_gradient_norm, 0, local.momentum)
    full_rank = max((shape[0] for name, shape in grouped.shapes.items() if ".lora_A." in name), default=0)

    def work(client: str) -> ClientWork:
        examples = runtime.train_examples(client)
        rank = runtime.rank_of(client)
        start = fresh if rank >= full_rank else pad_to_layout(cut_to_rank(fresh, rank), grouped.shapes)
        batches = round_batches(len(examples), local, local.batch_size, recipe.seed, 0, client)
        return ClientWork(client, examples, batches, start)

    def measure(cohort: range) -> list[float]:
        pieces = [work(clients[place]) for place in cohort]
        passes = [pieces] if grouped.cohorts else [[piece] for piece in pieces]
        results = [one for some in passes for one in train_cohort(runtime.model, grouped, some, training)]
        return [
            _keep_share(runtime, config, piece, result.adapter) for piece, result in zip(pieces, results, strict=True)
        ]

    grouped.change_base({})
    lengths = [int(max(runtime.train_examples(client).lengths)) * local.batch_size for client in clients]
    for found in runtime.lanes.map(measure, runtime.sizer.cohorts(lengths)):
        yield from found


def _keep_share(runtime: InProcessRuntime, config: LayersConfig, work: ClientWork, adapter: Adapter) -> float:
    """The share of directions that matter to a client, from the spectrum of its loss where it has arrived."""
    assert config.examples is not None
    seed = runtime.recipe.seed
    indices = measured_on(len(work.examples), config.examples, seed, work.client)
    values, weights = adapter_spectrum(
        runtime.model, runtime.grouped, adapter, work.examples, indices, seed=seed, client=work.client
    )
    return lossless_share_of_density(values, weights)
