"""Attackers among the clients: what is no update is left out and told, and nothing of it reaches the adapter."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

import fedloom
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import open_session
from tests.algorithms.every import Values, settings
from tests.federated_runs import CLIENTS, recipe, write_examples

# Two of the eight clients.
NAN = {"kind": "nan", "share": 0.25}


def rounds(out: Path) -> list[Values]:
    return [event for event in read_events(out / "events.jsonl") if event["event"] == "round"]


@pytest.mark.parametrize("name", ["fedavg, attacked", "krum, attacked", "flora, attacked"])
def test_rejected_updates_are_told(
    name: str, finished: Callable[[str], Path], left_by: Callable[[str], Values]
) -> None:
    """Of an algorithm that folds, of one that collects, and of one that knows LoRA's factors."""
    told = [event.get("rejected", {}) for event in rounds(finished(name))]
    attackers = {client for rejected in told for client in rejected}
    assert 1 <= len(attackers) <= 2
    for event, rejected in zip(rounds(finished(name)), told, strict=True):
        assert rejected.keys() == attackers & set(event["clients"])
        assert all("holds numbers that are not finite" in reason for reason in rejected.values())
    assert left_by(name)["metrics"]["rejected"] == sum(len(rejected) for rejected in told)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "attacked", "honest"),
    [
        ("fedavg", {}, {}),
        ("scaffold", {}, {}),
        ("fedadam", {}, {}),
        ("median", {}, {}),
        # Whose update was rejected is one hostile client less among the others.
        ("krum", {"byzantine_clients": 2}, {"byzantine_clients": 0}),
        ("fedex_lora", {}, {}),
        ("flora", {}, {}),
        ("hetlora", {}, {}),
    ],
)
def test_only_the_honest_are_aggregated(
    name: str, attacked: Values, honest: Values, source: Path, tmp_path: Path
) -> None:
    everybody = {"clients_per_round": 8, "attack": NAN}
    one = fedloom.run(settings(source, name, attacked, federation=everybody), tmp_path / "attacked")
    attackers = rounds(one.out)[0]["rejected"].keys()
    assert len(attackers) == 2
    trace = tmp_path / "trace.csv"
    trace.write_text("client,from,to\n" + "".join(f"{name},0,9\n" for name in CLIENTS if name not in attackers))
    the_honest = {"clients_per_round": 6, "participation": {"availability_trace": str(trace)}}
    other = fedloom.run(settings(source, name, honest, federation=the_honest), tmp_path / "honest")
    assert [set(event["clients"]) for event in rounds(other.out)] == [set(CLIENTS) - attackers] * 3
    files = [run.adapter / "adapter_model.safetensors" for run in (one, other)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_round_of_attackers_leaves_the_adapter(source: Path, tmp_path: Path) -> None:
    values = settings(
        source, "fedavg", federation={"rounds": 1, "clients_per_round": 1, "attack": {"kind": "nan", "share": 0.9}}
    )
    metrics = fedloom.run(values, tmp_path / "run").metrics
    assert metrics["rejected"] == 1
    assert metrics["eval"] == metrics["baselines"]["base"]


def test_sign_flip_and_scale_are_multiples(source: Path, tmp_path: Path) -> None:
    """One attacker alone in a round: what the adapter gets is minus or plus so many times what it has learnt."""

    adapters = {}
    for kind, attack in {
        "honest": None,
        "scale": {"kind": "scale", "strength": 3.0, "share": 0.9},
        "sign_flip": {"kind": "sign_flip", "strength": 3.0, "share": 0.9},
    }.items():
        values = settings(source, "fedavg", federation={"rounds": 1, "clients_per_round": 1, "attack": attack})
        folder = fedloom.run(values, tmp_path / kind).adapter
        adapters[kind] = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    for name, honest in adapters["honest"].items():
        if "lora_B" in name:  # It begins with zeros.
            assert bool(honest.any())
            assert bool((adapters["scale"][name] == 3 * honest).all())
            assert bool((adapters["sign_flip"][name] == -3 * honest).all())


def test_flipped_labels_are_those_of_attackers_only(tmp_path: Path) -> None:
    values = recipe(
        write_examples(tmp_path / "words.jsonl", growth=1),
        federation={"attack": {"kind": "label_flip", "share": 0.25}},
    )
    session = open_session(load_recipe(values), tmp_path)
    attack = session.runtime.attack
    assert attack is not None
    vocabulary = session.model.config.vocab_size
    for client in CLIENTS:
        honest = session.data.examples(client, "train")
        trained_on = attack.examples(client, honest)
        labels = honest.trained(0)
        assert (trained_on.tokens(0)[~labels] == honest.tokens(0)[~labels]).all()
        flipped = trained_on.tokens(0)[labels] == vocabulary - 1 - honest.tokens(0)[labels]
        assert flipped.all() == (client in attack.attackers)
