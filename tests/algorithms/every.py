"""One small federation for each algorithm that a recipe can name: real text, the embedded model, a second or less."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.federated_runs import recipe

Values = dict[str, Any]

ASYNCHRONOUS = {"clients_per_round": 4, "participation": {"clock": {"spread": 1.0}}}
GROUPS = [{"rank": 4, "share": 0.5}, {"rank": 2, "share": 0.5}]
MIXED = {"adapter": {"rank": GROUPS}}

# What each algorithm is run with: parameters at which everything that it does shows, in three rounds of few steps.
PARAMETERS: dict[str, Values] = {
    "fedavg": {},
    "fedprox": {"mu": 1.0},
    "scaffold": {},
    "fednova": {},
    "feddyn": {"alpha": 1.0},
    "fedavgm": {"server_learning_rate": 0.5},
    "fedadagrad": {"server_learning_rate": 0.01},
    "fedyogi": {"server_learning_rate": 0.01},
    "fedadam": {"server_learning_rate": 0.01},
    "fed_sb": {},
    "fedex_lora": {},
    "fedsa_lora": {},
    "ffa_lora": {},
    "flexlora": {},
    "flora": {},
    "hetlora": {"gamma": 0.5, "lam": 1.0},
    "rolora": {},
    "median": {},
    "trimmed_mean": {},
    "krum": {"byzantine_clients": 1},
    "multi_krum": {"byzantine_clients": 1, "kept_clients": 2},
    "geometric_median": {},
    "norm_bound": {"bound": 0.05},
    "ditto": {},
    "pfedme": {"personal_steps": 2},
    "fedbuff": {"buffer_size": 3},
    "composed": {
        "client": {"name": "fedprox", "mu": 1.0},
        "rule": {"name": "norm_bound", "bound": 0.1},
        "server": {"name": "fedavgm", "server_learning_rate": 0.5},
    },
}
# Sections that an algorithm needs, or that only some algorithms have to do with.
SECTIONS: dict[str, Values] = {
    "fedbuff": {"federation": ASYNCHRONOUS},
    "flexlora": {"model": MIXED},
    "flora": {"model": MIXED},
    "hetlora": {"model": MIXED},
}


def settings(source: Path, name: str, parameters: Values | None = None, **sections: Any) -> Values:
    """A recipe for an algorithm: five of eight unequal clients a round, three rounds, the two upper layers adapted."""
    chosen = {"name": name, **PARAMETERS[name], **(parameters or {})}
    values = recipe(
        source,
        federation={"clients_per_round": 5, "algorithm": chosen},
        evaluation={"max_examples": 2, "max_clients": 3, "exact_match": True},
        runtime={"cohort": 8},
    )
    values["model"]["adapter"]["layers"] = [4, 5]
    for more in (SECTIONS.get(name, {}), sections):
        values = merged(values, more)
    return values


def merged(values: Values, more: Values) -> Values:
    """Some values with others in their place, section by section."""
    found = dict(values)
    for key, value in more.items():
        inner = values.get(key)
        found[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


# Every algorithm, and further ways of doing what some of them do; what a recipe can add to any of them.
RUNS: dict[str, Callable[[Path], Values]] = {name: partial(settings, name=name) for name in PARAMETERS} | {
    "scaffold, full gradients": partial(settings, name="scaffold", parameters={"control": "full_gradient"}),
    "scaffold, after the step": partial(settings, name="scaffold", parameters={"control": "update"}),
    "fedex_lora, truncated": partial(settings, name="fedex_lora", parameters={"residual_rank": 1}),
    "fedavg, private layer": partial(settings, name="fedavg", federation={"private": ["layers.5"]}),
    "fedadam, private factor": partial(settings, name="fedadam", federation={"private": ["lora_B"]}),
    "scaffold, private layer": partial(settings, name="scaffold", federation={"private": ["layers.5"]}),
    "fedbuff, private layer": partial(settings, name="fedbuff", federation={"private": ["layers.5"]}),
    "fedavg, chosen layer": partial(
        settings, name="fedavg", federation={"layers": {"choose": "importance", "others": "frozen"}}
    ),
    "fedadam, alike layer": partial(
        settings, name="fedadam", federation={"layers": {"choose": "similarity", "others": "frozen"}}
    ),
    "scaffold, sparse": partial(
        settings,
        name="scaffold",
        federation={"layers": {"choose": "lowest"}},
        local={"sparse": {"share": 0.3}},
    ),
    "fedbuff, sparse": partial(
        settings,
        name="fedbuff",
        federation={"private": ["layers.4"]},
        local={"sparse": {"share": 0.3, "momentum": 0.0}},
    ),
    "fedavg, attacked": partial(settings, name="fedavg", federation={"attack": {"kind": "nan"}}),
    "krum, attacked": partial(settings, name="krum", federation={"attack": {"kind": "nan"}}),
    "flora, attacked": partial(settings, name="flora", federation={"attack": {"kind": "nan"}}),
    "median, noise": partial(settings, name="median", federation={"attack": {"kind": "noise"}}),
    "fedavg, flipped labels": partial(settings, name="fedavg", federation={"attack": {"kind": "label_flip"}}),
    "ditto, fine_tuned": partial(settings, name="ditto", baselines=["fine_tuned"]),
}
