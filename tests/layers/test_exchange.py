"""What crosses the wire, what stays with clients, and what does not move within a round."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from fedloom.federation import first_state
from fedloom.model.adapters.lora import GroupedLora
from fedloom.model.tensor_names import adapted_layers, layer_of, names_in_layers
from fedloom.recipe.adapter_schema import LoraConfig
from fedloom.runtime.exchange import personal_adapter
from fedloom.training.sparse import neuron_mask, neurons_of
from tests.federated_runs import write_examples
from tests.layers.federations import Values, decoded, layers_of, opened, recorded, settings


@pytest.mark.parametrize("others", ["private", "frozen"])
def test_of_200_clients_chosen_layers_alone_travel(
    others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = tuple(f"client-{number:03d}" for number in range(200))
    source = write_examples(tmp_path / "words.jsonl", clients, growth=0)
    layers = {"choose": "highest", "number": 2, "others": others}
    one_step = {"steps": 1, "batch_size": 1}
    rank_one = {"adapter": {"rank": 1, "targets": ["q_proj", "v_proj"]}}
    session, arm = opened(
        settings(source, layers, federation={"clients_per_round": 200}, local=one_step, model=rank_one),
        tmp_path / "run",
    )
    state = first_state(session, arm)
    messages = recorded(monkeypatch)
    updates = list(session.runtime.train(arm.plan(1, state.algorithm), state.adapter, arm.algorithm))
    chosen = {name: value for name, value in state.adapter.items() if layer_of(name) in {4, 5}}
    assert len(updates) == 200
    for update in updates:
        assert update.delta.keys() == chosen.keys()
        assert update.metrics["bytes_up"] == update.metrics["bytes_down"] == len(messages[0])
    # Encoded once for all clients: what they are sent, and tensors of the shapes of what they send.
    assert len(messages) == 2
    for message in messages:
        sent = decoded(message)
        assert {name: value.shape for name, value in sent.items()} == {n: v.shape for n, v in chosen.items()}
        header = 8 + int.from_bytes(message[:8], "little")
        assert len(message) - header == 4 * sum(value.numel() for value in chosen.values())
    after, _ = arm.algorithm.step(state.adapter, state.algorithm, updates)
    assert all(torch.equal(after[name], value) for name, value in state.adapter.items() if name not in chosen)
    assert any(not torch.equal(after[name], value) for name, value in chosen.items())
    kept = personal_adapter(session.store, "federated", clients[7], 1)
    assert layers_of(kept) == ({0, 1, 2, 3} if others == "private" else set())


ALGORITHMS: list[tuple[str, Values]] = [
    ("fedavg", {}),
    ("fedprox", {"mu": 1.0}),
    ("scaffold", {}),
    ("fedadam", {"server_learning_rate": 0.01}),
    ("fedavgm", {"server_learning_rate": 0.5}),
    ("feddyn", {"alpha": 1.0}),
    ("median", {}),
]


@pytest.mark.parametrize(("name", "parameters"), ALGORITHMS, ids=[name for name, _ in ALGORITHMS])
def test_private_layers_between_and_within_rounds(name: str, parameters: Values, source: Path, tmp_path: Path) -> None:
    """A client goes on where it was; within a round what its mask leaves out does not move by a bit."""
    algorithm = {"algorithm": {"name": name, **parameters}}
    layers, sparse = {"choose": "lowest", "number": 4}, {"share": 0.3}
    session, arm = opened(settings(source, layers, sparse, federation=algorithm), tmp_path)
    state, shapes = first_state(session, arm), session.grouped.shapes
    private = {layer_name: shape for layer_name, shape in shapes.items() if layer_of(layer_name) in {4, 5}}
    begun = {name: state.adapter[name] for name in private}
    before: dict[str, dict[str, Tensor]] = {}
    fisher: dict[str, Tensor] = {}
    everybody = tuple(session.data.clients)[:3]
    for number in (1, 2):
        plan = replace(arm.plan(number, state.algorithm), clients=everybody, sparse=dict.fromkeys(everybody, 0.3))
        broadcast = {**state.adapter, **arm.algorithm.sent(state.algorithm)}
        updates = list(session.runtime.train(plan, broadcast, arm.algorithm))
        for update in updates:
            assert layers_of({**update.delta, **update.extra}) == {0, 1, 2, 3}
            stored = session.store.load("federated", update.client, number + 1)
            assert stored is not None
            own = personal_adapter(session.store, "federated", update.client, number)
            assert own.keys() == private.keys()
            entries = sum(value.numel() for value in own.values())
            assert stored["sparse/fisher"].shape == (entries,)
            if number == 2:
                mask = neuron_mask(fisher[update.client], neurons_of(private), 0.3)
                flat = [torch.cat([one[name].reshape(-1) for name in private]) for one in (before[update.client], own)]
                assert torch.equal(flat[0][~mask], flat[1][~mask])
                # Of B's rows, all of whose gradients count, every one moves; A's do, too, now that B is not zero.
                assert (flat[0] != flat[1])[mask].float().mean() > 0.9
            elif number == 1:
                # A warm-up: all neurons are trained.
                moved = torch.cat([(own[name] != begun[name]).reshape(-1) for name in private])
                assert moved.float().mean() > 0.9
            before[update.client], fisher[update.client] = own, stored["sparse/fisher"]
        state.adapter, state.algorithm = arm.algorithm.step(state.adapter, state.algorithm, updates)
    assert all(torch.equal(state.adapter[name], value) for name, value in begun.items())


def test_a_clients_private_layers_begin_where_it_left_them(source: Path, tmp_path: Path) -> None:
    """With a learning rate of zero a round ends where it begins."""
    session, arm = opened(settings(source, {"choose": "highest"}), tmp_path)
    state = first_state(session, arm)
    plan = arm.plan(1, state.algorithm)
    list(session.runtime.train(plan, state.adapter, arm.algorithm))
    left = {client: personal_adapter(session.store, "federated", client, 1) for client in plan.clients}
    again = replace(plan, round=4, learning_rate=0.0)
    list(session.runtime.train(again, state.adapter, arm.algorithm))
    for client in plan.clients:
        found = personal_adapter(session.store, "federated", client, 4)
        assert found.keys() == left[client].keys()
        assert all(torch.equal(found[name], value) for name, value in left[client].items())


def test_what_roberta_large_would_send() -> None:
    """4 bytes an entry of 12 of 24 layers, tensors alone: each message has a safetensors header besides."""
    with torch.device("meta"):
        model = AutoModel.from_config(
            AutoConfig.for_model(
                "roberta", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
            )
        )
    shapes = GroupedLora.layout(model, LoraConfig(rank=8, targets=["query", "value"])).shapes
    layers = adapted_layers(shapes)
    assert layers == list(range(24))

    def size(chosen: list[int]) -> int:
        return 4 * sum(torch.Size(shapes[name]).numel() for name in names_in_layers(shapes, chosen))

    assert size(layers[3:4]) == 4 * 32_768
    assert size(layers[12:]) == 1_572_864
    assert size(layers) == 3_145_728


def test_the_choice_is_a_file(source: Path, tmp_path: Path) -> None:
    """Whoever opens the run again takes what is written, without measuring."""
    session, _ = opened(settings(source, {"number": 2}), tmp_path)
    assert session.layers is not None
    values = json.loads((tmp_path / "layers.json").read_text())
    assert values == session.layers.values()
    (tmp_path / "layers.json").write_text(json.dumps({**values, "chosen": [0, 1]}))
    again, arm = opened(settings(source, {"number": 2}), tmp_path)
    assert again.layers is not None
    assert again.layers.chosen == [0, 1]
    assert arm.plan(1, {}).private_layers == (2, 3, 4, 5)
