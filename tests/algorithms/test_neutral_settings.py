"""What turns an algorithm into federated averaging, to the bit and in a run; and that every other setting shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedloom
from fedloom.aggregation.registry import ALGORITHMS, parameters_model
from fedloom.report.events import read_events
from tests.algorithms.every import PARAMETERS, Values, settings

pytestmark = pytest.mark.long

# Dividing by a power of two is exact; other numbers of steps agree up to the rounding of fp64.
EQUAL_STEPS = {"local": {"epochs": None, "steps": 2}}
ONE_ROUND = {"federation": {"rounds": 1}}
ONE_CLIENT = {"federation": {"rounds": 1, "clients_per_round": 1}}
EVERYBODY_ONCE = {"federation": {"rounds": 1, "clients_per_round": 8}}
ONE_RANK = {"model": {"adapter": {"rank": 4}}}
UNIFORM = {"weighting": "uniform"}
# After one step from B = 0 all clients have the same A: then the mean of products is the product of means.
# Gradients of another sum of the same numbers are not the same to the bit, and AdamW's first step is along their signs.
SGD = {"optimizer": "sgd", "learning_rate": 0.1}
ONE_STEP = {**ONE_ROUND, "local": {"epochs": None, "steps": 1, **SGD}, **ONE_RANK}
LIMIT = {"beta1": 0.0, "initial_second_moment": 0.0, "server_learning_rate": 1e8, "tau": 1e8}

# An algorithm, the parameters that make it an average, those of the average, and other sections of both recipes.
NEUTRAL: list[tuple[str, Values, Values, Values]] = [
    ("fedprox", {"mu": 0.0}, {}, {}),
    ("fednova", {}, {}, EQUAL_STEPS),
    ("fedavgm", {"beta": 0.0, "server_learning_rate": 1.0}, {}, {}),
    ("trimmed_mean", {"trimmed_share": 0.0}, UNIFORM, {}),
    # Of two values the middle ones are both.
    ("median", {}, UNIFORM, {"federation": {"clients_per_round": 2}}),
    ("multi_krum", {"kept_clients": 5}, UNIFORM, {}),
    ("geometric_median", {"iterations": 0}, {}, {}),
    ("norm_bound", {"bound": 1e9}, {}, {}),
    ("hetlora", {"weighting": "examples", "gamma": 1.0, "lam": 0.0}, {}, ONE_RANK),
    # The adapter that clients share.
    ("ditto", {}, {}, {}),
    # The anchor takes the place of the personal adapter after every step.
    ("pfedme", {"lam": 2.0, "outer_learning_rate": 0.5, "personal_steps": 1}, UNIFORM, {}),
    # Control variates are zero at first.
    ("scaffold", {}, UNIFORM, ONE_ROUND),
    ("scaffold", {"control": "full_gradient", "weighting": "examples"}, {}, ONE_ROUND),
    ("composed", {"client": {"name": "fedprox", "mu": 0.0}, "rule": {"name": "fedavg"}, "server": None}, {}, {}),
    ("ffa_lora", {}, {}, ONE_STEP),
    ("rolora", {}, {}, ONE_STEP),
]
# The same up to rounding, and how far that goes: a limit, or the product of factors; and where the base changes, the
# decoder layers are not our own, but transformers'.
NEARLY: list[tuple[str, Values, Values, Values, float]] = [
    ("fedadagrad", LIMIT, {}, {}, 1e-5),
    ("fedyogi", {**LIMIT, "beta2": 0.0}, {}, {}, 1e-5),
    ("fedadam", {**LIMIT, "beta2": 0.0}, {}, {}, 1e-5),
    ("flexlora", {}, {}, ONE_STEP, 1e-5),
    ("fed_sb", {}, {}, ONE_STEP, 1e-5),
    ("flora", {}, {}, ONE_STEP, 1e-4),
    ("fedex_lora", {}, UNIFORM, ONE_STEP, 1e-4),
]
# Tests of their own, below; of Krum, which keeps one client's update, nothing is neutral.
ELSEWHERE = {"fedavg", "feddyn", "fedsa_lora", "fedbuff", "krum"}

# For each algorithm: a change of each of its parameters, from those of `PARAMETERS`.
CHANGES: dict[str, Values] = {
    "fedavg": {"weighting": "tokens"},
    "fedprox": {"mu": 0.1, "weighting": "uniform"},
    "scaffold": {"control": "update", "server_learning_rate": 0.5, "weighting": "examples"},
    "fednova": {"weighting": "uniform"},
    "feddyn": {"alpha": 0.5},
    "fedavgm": {"server_learning_rate": 1.0, "beta": 0.5, "weighting": "uniform"},
    "fedadagrad": {
        "server_learning_rate": 0.02,
        "beta1": 0.5,
        "tau": 1e-2,
        "weighting": "uniform",
        "initial_second_moment": 0.1,
    },
    "fedyogi": {
        "server_learning_rate": 0.02,
        "beta1": 0.5,
        "beta2": 0.5,
        "tau": 1e-2,
        "weighting": "uniform",
        "initial_second_moment": 0.1,
    },
    "fedadam": {
        "server_learning_rate": 0.02,
        "beta1": 0.5,
        "beta2": 0.5,
        "tau": 1e-2,
        "weighting": "uniform",
        "initial_second_moment": 0.1,
    },
    "fed_sb": {"weighting": "uniform"},
    "fedex_lora": {"residual_rank": 1, "weighting": "examples"},
    "fedsa_lora": {"weighting": "uniform"},
    "ffa_lora": {"weighting": "uniform"},
    "flexlora": {"singular_values": "sqrt", "weighting": "uniform"},
    "flora": {"weighting": "uniform"},
    "hetlora": {"weighting": "layer_norms", "gamma": 0.75, "lam": 0.1, "r_min": 3},
    "rolora": {"first": "A", "weighting": "uniform"},
    "median": {},
    "trimmed_mean": {"trimmed_share": 0.4},
    "krum": {"byzantine_clients": 0},
    "multi_krum": {"byzantine_clients": 0, "kept_clients": 3},
    "geometric_median": {"iterations": 1, "smallest_distance": 1.0, "weighting": "uniform"},
    "norm_bound": {"bound": 0.1, "weighting": "uniform"},
    "ditto": {"lam": 1.0, "weighting": "uniform"},
    "pfedme": {"lam": 10.0, "outer_learning_rate": 0.01, "personal_steps": 1, "server_learning_rate": 0.5},
    "composed": {"client": None, "rule": {"name": "median"}, "server": {"name": "fedadam"}},
    "fedbuff": {"buffer_size": 2, "staleness_exponent": 0.0, "server_learning_rate": 0.5, "weighting": "examples"},
}


def adapter(values: Values, out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(fedloom.run(values, out).adapter / "adapter_model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_no_algorithm_is_left_out() -> None:
    assert {name for name, *_ in [*NEUTRAL, *NEARLY]} | ELSEWHERE == ALGORITHMS.keys()
    assert CHANGES.keys() == ALGORITHMS.keys()


@pytest.mark.parametrize(("name", "parameters", "of_average", "sections"), NEUTRAL)
def test_neutral_settings(
    source: Path, tmp_path: Path, name: str, parameters: Values, of_average: Values, sections: Values
) -> None:
    average = adapter(settings(source, "fedavg", of_average, **sections), tmp_path / "average")
    assert equal(adapter(settings(source, name, parameters, **sections), tmp_path / "run"), average)


def products(folder: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    """What an exported adapter adds to all weights, as one vector; beyond the recipe's rank its scale is the same."""
    layers = [name.removesuffix(".lora_A.weight") for name in folder if name.endswith(".lora_A.weight")]
    parts = [folder[f"{layer}.lora_B.weight"].double() @ folder[f"{layer}.lora_A.weight"].double() for layer in layers]
    return scale * torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("name", "parameters", "of_average", "sections", "tolerance"), NEARLY)
def test_neutral_up_to_rounding(
    source: Path, tmp_path: Path, name: str, parameters: Values, of_average: Values, sections: Values, tolerance: float
) -> None:
    average = products(adapter(settings(source, "fedavg", of_average, **sections), tmp_path / "average"), 4.0)
    other = products(adapter(settings(source, name, parameters, **sections), tmp_path / "run"), 4.0)
    assert float(average.norm()) > 0
    assert float((other - average).norm() / average.norm()) < tolerance


def test_feddyn_begins_with_twice_the_mean(source: Path, tmp_path: Path) -> None:
    """With all clients and nothing to hold them back; h / a does not depend on a."""
    twice = {"beta": 0.0, "server_learning_rate": 2.0, **UNIFORM}
    average = adapter(settings(source, "fedavgm", twice, **EVERYBODY_ONCE), tmp_path / "average")
    assert equal(adapter(settings(source, "feddyn", {"alpha": 2.0**-100}, **EVERYBODY_ONCE), tmp_path / "run"), average)


def test_fedsa_with_one_client(source: Path, tmp_path: Path) -> None:
    average = adapter(settings(source, "fedavg", **ONE_CLIENT), tmp_path / "average")
    shared = adapter(settings(source, "fedsa_lora", **ONE_CLIENT), tmp_path / "run")
    (kept,) = (tmp_path / "run" / "clients").glob("*/federated/1.safetensors")
    own = {name.removeprefix("adapter/"): value for name, value in safetensors.torch.load_file(kept).items()}
    assert equal(own, {name: value for name, value in average.items() if "lora_B" in name})
    assert all(torch.equal(shared[name], average[name]) for name in average if "lora_A" in name)


def test_fedbuff_with_fresh_updates(source: Path, tmp_path: Path) -> None:
    """A buffer filled by clients that all have the newest version is a round of those clients."""
    everybody_as_fast = {"participation": {"clock": {"spread": 0.0, "jitter": 0.0}}}
    of_buffer = {"rounds": 1, "clients_per_round": 4, **everybody_as_fast}
    buffered = adapter(settings(source, "fedbuff", {"buffer_size": 2}, federation=of_buffer), tmp_path / "run")
    (event,) = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "round"]
    assert set(event["staleness"].values()) == {0}
    trace = tmp_path / "trace.csv"
    trace.write_text("client,from,to\n" + "".join(f"{client},0,1\n" for client in event["clients"]))
    of_round = {"rounds": 1, "clients_per_round": 2, "participation": {"availability_trace": str(trace)}}
    assert equal(adapter(settings(source, "fedavg", UNIFORM, federation=of_round), tmp_path / "average"), buffered)


@pytest.mark.parametrize("name", CHANGES)
def test_every_parameter_shows(name: str, source: Path, left_by: Callable[[str], Any], tmp_path: Path) -> None:
    assert CHANGES[name].keys() == parameters_model(name).model_fields.keys()
    before = left_by(name)
    for parameter, value in CHANGES[name].items():
        assert PARAMETERS[name].get(parameter) != value
        out = tmp_path / parameter
        fedloom.run(settings(source, name, {parameter: value}), out)
        changed = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}
        kept = {path: content for path, content in before["adapters"].items() if path in changed}
        assert any(changed[path] != content for path, content in kept.items()), parameter
