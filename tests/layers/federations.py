"""What the tests of chosen layers share: a small federation, opened, and what crosses its wire."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch import Tensor

import fedloom.runtime.exchange
from fedloom.arms import Arm, build_arms
from fedloom.model.tensor_names import layer_of
from fedloom.recipe import load_recipe
from fedloom.session import Session, open_session
from tests.federated_runs import recipe

Values = dict[str, Any]
# Hand-set gradients are clipped, weights decay, and moments are kept: whatever could move an entry that is not trained.
LOCAL = {"epochs": None, "steps": 3, "batch_size": 4, "weight_decay": 0.1, "max_gradient_norm": 0.1}
FEW_TESTS = {"max_examples": 2, "max_clients": 3, "exact_match": False}


def settings(source: Path, layers: Values | None, sparse: Values | None = None, **sections: Any) -> Values:
    """A recipe in which five of eight unequal clients train in each of two rounds."""
    federation = {"clients_per_round": 5, "rounds": 2, **sections.pop("federation", {})}
    if layers is not None:
        federation["layers"] = layers
    local = {**LOCAL, **({} if sparse is None else {"sparse": sparse}), **sections.pop("local", {})}
    values = recipe(source, federation=federation, local=local, evaluation=FEW_TESTS, runtime={"cohort": 8})
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


def opened(values: Values, out: Path) -> tuple[Session, Arm]:
    out.mkdir(exist_ok=True)
    session = open_session(load_recipe(values), out)
    return session, build_arms(session)[0]


def layers_of(names: Any) -> set[int | None]:
    """The layers of some tensors; what an algorithm sends beside the adapter counts as the tensor that it is about."""
    return {layer_of(name) for name in names}


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every message that a run encodes between server and clients from now on, as bytes."""
    messages: list[bytes] = []
    plain: Callable[..., bytes] = fedloom.runtime.exchange.encode

    def encode(tensors: dict[str, Tensor]) -> bytes:
        messages.append(plain(tensors))
        return messages[-1]

    monkeypatch.setattr(fedloom.runtime.exchange, "encode", encode)
    return messages


def decoded(message: bytes) -> dict[str, Tensor]:
    return safetensors.torch.load(message)
