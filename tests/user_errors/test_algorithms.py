"""Mistakes about algorithms, ranks, private parts and attackers: one clear line before any weight is read."""

from pathlib import Path

import pytest

from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains

ALGORITHM = "federation.algorithm"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ("{name: fedprox, mu: -1}", [f"{ALGORITHM}.mu: -1 is not a number from 0 up"]),
        ("{name: fedprox, mu: strong}", [f"{ALGORITHM}.mu: 'strong' is not a number"]),
        ("{name: fedprox, muu: 1}", [f"{ALGORITHM}: 'muu' is no parameter of fedprox", "mu, weighting", "mean 'mu'"]),
        ("{name: median, share: 1}", ["'share' is no parameter of median; allowed: it has none"]),
        ("{name: scaffold, clients: 8}", ["'clients' is no parameter of scaffold", "control, server_learning_rate"]),
        ("{name: scaffold, control: full_grad}", [f"{ALGORITHM}.control: 'full_grad'", "mean 'full_gradient'"]),
        ("{name: fedavg, weighting: exampels}", [f"{ALGORITHM}.weighting: 'exampels'", "mean 'examples'"]),
        ("{name: rolora, first: C}", [f"{ALGORITHM}.first: 'C' is not one of: A, B"]),
        ("{name: hetlora, gamma: 1}", [f"{ALGORITHM}.lam: has no effect where gamma is 1"]),
        ("{name: hetlora, gamma: 2}", [f"{ALGORITHM}.gamma: 2 is not a number up to 1"]),
        ("{name: trimmed_mean, trimmed_share: 0.5}", [f"{ALGORITHM}.trimmed_share: 0.5 is not a number below 0.5"]),
        ("{name: norm_bound, bound: .inf}", [f"{ALGORITHM}.bound: inf is not a finite number"]),
        ("norm_bound", [f"{ALGORITHM}.bound: is required"]),
        ("krum", [f"{ALGORITHM}.byzantine_clients: is required"]),
        ("{name: pfedme, lam: 300.0}", [f"{ALGORITHM}.outer_learning_rate: 0.005 times lam (300) must be <= 1"]),
        ("{name: composed}", ["composed needs a client or a server part"]),
        ("{name: composed, server: {name: fedadamm}}", [f"{ALGORITHM}.server.name: 'fedadamm'", "mean 'fedadam'"]),
        ("{name: composed, server: fedadam}", [f"{ALGORITHM}.server: 'fedadam' is not a section"]),
        ("{name: composed, server: {name: fedadam, weighting: tokens}}", [f"{ALGORITHM}.server.weighting: has no"]),
        # What the algorithm asks of the rounds: two clients each, of eight.
        ("{name: krum, byzantine_clients: 1}", [f"{ALGORITHM}.byzantine_clients: 1 needs 5 clients a round", "is 2"]),
        ("{name: krum, byzantine_clients: 0}", [f"{ALGORITHM}.byzantine_clients: 0 needs 3 clients a round", "is 2"]),
        (
            "{name: composed, server: {name: fedadam}, rule: {name: krum, byzantine_clients: 0}}",
            [f"{ALGORITHM}.rule.byzantine_clients: 0 needs 3 clients a round"],
        ),
        ("fedbuff", ["federation.participation.clock: is required by asynchronous aggregation"]),
    ],
)
def test_algorithms(refused_early: Refused, rows: Path, section: str, parts: list[str]) -> None:
    contains(refused_early(recipe(rows, **SMALL), "--set", f"{ALGORITHM}={section}"), *parts)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["federation={clients_per_round: 5, algorithm: {name: multi_krum, byzantine_clients: 1, kept_clients: 6}}"],
            [f"{ALGORITHM}.kept_clients: 6 is above federation.clients_per_round, 5"],
        ),
        (
            [f"{ALGORITHM}=fedbuff", "federation.participation={clock: {}, drop_out: 0.1}"],
            ["federation.participation.drop_out has no effect on asynchronous aggregation"],
        ),
        (
            [f"{ALGORITHM}=fedbuff", "federation.participation={clock: {}}"],
            ["2 clients in flight and a buffer of 10 need 12 training clients", "there are 8"],
        ),
        (
            ["model.adapter.rank=[{rank: 4, share: 1}]"],
            ["model.adapter.rank: fedavg averages factors of one rank", "flexlora, flora, hetlora"],
        ),
        (["model.adapter.rank=[{rank: 4, share: 0.5}]"], ["model.adapter.rank: the groups' shares add up to 0.5"]),
        (["model.adapter.rank=[]"], ["model.adapter.rank: the groups' shares add up to 0"]),
        (["model.adapter.rank=[{rank: 4}]"], ["model.adapter.rank.0: a group of clients needs a share, or clients"]),
        (["model.adapter.rank=[{rank: 0, share: 1}]"], ["model.adapter.rank.0.rank: 0 is not a number from 1 up"]),
        (["model.adapter.rank=[{rnk: 4, share: 1}]"], ["model.adapter.rank.0.rnk: unknown key", "mean 'rank'"]),
        (["model.adapter.rank=four"], ["model.adapter.rank: 'four' is not a whole number or a list"]),
        (
            ["model.adapter.rank=[{rank: 4, share: 1}, {rank: 2, clients: [ada]}, {rank: 3, clients: [ada]}]"],
            ["model.adapter.rank: 'ada' is named twice"],
        ),
        (
            ["model.adapter.rank=[{rank: 4, share: 1}, {rank: 2, clients: [adda]}]", f"{ALGORITHM}=flora"],
            ["model.adapter.rank.1.clients: 'adda' is no training client", "did you mean 'ada'?"],
        ),
        (["federation.private=layers.5"], ["federation.private: 'layers.5' is not a list"]),
        (["federation.private=[layers.9]"], ["federation.private: 'layers.9' matches no tensor", "lora_A.weight"]),
        (["federation.private=['*']"], ["federation.private: names the whole adapter"]),
        (
            ["federation.private=[lora_A]", f"{ALGORITHM}=fedsa_lora"],
            ["federation.private: fedsa_lora says itself which factor travels"],
        ),
        (
            ["federation.private=[layers.5]", f"{ALGORITHM}=ditto"],
            ["federation.private: with ditto each client has a whole adapter of its own"],
        ),
        (["federation.private=[layers.5]", f"{ALGORITHM}=fed_sb"], ["federation.private: fed_sb trains one small"]),
        (["federation.private=[layers.5]", "baselines=[fine_tuned]"], ["baselines: fine_tuned has no effect"]),
        ([f"{ALGORITHM}=fedsa_lora", "baselines=[fine_tuned]"], ["baselines: fine_tuned has no effect"]),
        ([f"{ALGORITHM}=flora", "baselines=[fine_tuned]"], ["baselines: fine_tuned", "flora changes the base model"]),
        (["baselines=[{kind: local, rounds: 2}]"], ["baselines.0: rounds has no effect on local"]),
        (["baselines=[{kind: fine_tuned, rounds: 0}]"], ["baselines.0.rounds: 0 is not a number from 1 up"]),
        (["federation.attack={kind: sign_flp}"], ["federation.attack.kind: 'sign_flp'", "mean 'sign_flip'"]),
        (["federation.attack={}"], ["federation.attack.kind: is required"]),
        (["federation.attack=nan"], ["federation.attack: 'nan' is not a section with the keys kind"]),
        (["federation.attack={kind: nan, strength: 3}"], ["federation.attack: strength has no effect on kind 'nan'"]),
        (["federation.attack={kind: scale, strength: 0}"], ["federation.attack.strength: 0 is not a number above 0"]),
        (["federation.attack={kind: scale, share: 1}"], ["federation.attack.share: 1 is not a number below 1"]),
        (
            ["federation.attack={kind: scale, share: 0.1}"],
            ["federation.attack.share: 0.1 of 8 clients is nobody: it has no effect"],
        ),
    ],
)
def test_combinations(refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]) -> None:
    told = refused_early(recipe(rows, **SMALL), *(word for override in overrides for word in ("--set", override)))
    contains(told, *parts)
