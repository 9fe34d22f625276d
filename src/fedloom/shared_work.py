"""A run in several processes: the first one runs the loop, the others do their share of what it tells them to do.

Algorithms' steps and evaluations are what all processes do together; everything else, the run directory included, is
the first one's alone. It tells the others before each, with all they need: nothing is decided twice.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedloom.aggregation import Algorithm, State, Tensors, Update
from fedloom.aggregation.wrapped import Wrapped
from fedloom.arms import Arm, build_arms
from fedloom.beginning import describe_session
from fedloom.data.federated import reopen
from fedloom.errors import UserError
from fedloom.model.base import quiet_libraries
from fedloom.places import Place
from fedloom.recipe import Recipe, parse_recipe, recipe_yaml
from fedloom.run_directory import DATA, write_atomically
from fedloom.runtime import RoundPlan
from fedloom.runtime.cohort_size import GIB, memory_budget
from fedloom.runtime.distributed import Delivered, DistributedRuntime, SharedUpdates
from fedloom.session import Session, assemble, open_data, open_session, shared_layers
from fedloom.training.layer_choice import LayerChoice
from fedloom.wire.messages import pack_message, unpack_message

if TYPE_CHECKING:
    # A run in one process never imports it.
    from fedloom.runtime.process_group import ProcessGroup

SEEN_BY_ALL = ".seen-by-all"
ADAPTER, STATE = "adapter/", "state/"


def open_run(recipe: Recipe, path: Path, group: ProcessGroup | None = None) -> tuple[Session, list[Arm]]:
    """Bring together what a run works with, and what it trains.

    Args:
        recipe: the run.
        path: the run directory.
        group: the processes that share the work, this one leading, where there are several.

    Returns:
        The session and the arms.

    Raises:
        UserError: for any mistake in recipe, data or model, or where the processes do not fit together.
    """
    if group is None:
        session = open_session(recipe, path)
        return session, build_arms(session)
    mine = recipe_here(recipe, group.place)
    data = open_data(mine, path)
    token, seen = secrets.token_hex(), path / SEEN_BY_ALL
    write_atomically(seen, token)
    try:
        where = {"path": str(path.resolve()), "token": token, "data": data.fingerprint}
        group.tell({"do": "open", "recipe": recipe_yaml(recipe), **where})
        session = _open_together(lambda: assemble(mine, path, data, group), group)
    finally:
        seen.unlink(missing_ok=True)
    if recipe.federation.layers is not None:
        # Measured by this process alone: the others are told.
        session.layers = shared_layers(session, path)
        group.tell({"do": "layers", "choice": session.layers.values()})
    if session.reference is not None:
        # The first process alone need have the adapter that training starts from.
        group.tell({"do": "reference"}, session.reference())
    arms = build_arms(session)
    return session, [_led(arm, index, group) for index, arm in enumerate(arms)]


def follow(group: ProcessGroup) -> None:
    """Do this process's share of what the first one tells, until it tells that the run has ended.

    Args:
        group: the processes.
    """
    session: Session | None = None
    arms: list[Arm] = []
    updates: SharedUpdates | None = None
    while True:
        order, tensors = group.hear()
        # A user's mistake that any process found is known to all: the first one tells the user and ends the run.
        with suppress(UserError, Delivered):
            if order["do"] == "end":
                return
            if order["do"] == "open":
                session = updates = None  # of the seed before: its memory is needed
                arms = []
                session = _join(order, group)
                arms = build_arms(session)
                continue
            assert session is not None
            if order["do"] == "layers":
                session.layers = LayerChoice(**order["choice"])
                arms = build_arms(session)
                continue
            if order["do"] == "reference":
                assert session.reference is not None
                session.reference.adapter = tensors
                continue
            assert isinstance(session.runtime, DistributedRuntime)
            if order["do"] == "train":
                # JSON knows no tuples.
                told = {key: tuple(value) if isinstance(value, list) else value for key, value in order["plan"].items()}
                plan = RoundPlan(**dict[str, Any](told))
                algorithm = next(arm.algorithm for arm in arms if arm.name == plan.arm)
                updates = session.runtime.follow(plan, tensors, algorithm)
            elif order["do"] == "step":
                assert updates is not None
                adapter, state = _without_prefix(tensors, ADAPTER), _without_prefix(tensors, STATE)
                arms[order["arm"]].algorithm.step(adapter, state, updates)
            else:
                arms[order["arm"]].evaluate(tensors, order["round"])


def recipe_here(recipe: Recipe, place: Place) -> Recipe:
    """A recipe whose runtime section is one process's share of its machine.

    Args:
        recipe: the run.
        place: the process.

    Returns:
        The recipe with the process's own device and memory.

    Raises:
        UserError: where the machine has fewer GPUs than processes.
    """
    runtime, changes = recipe.runtime, dict[str, Any]()
    if runtime.device == "cuda" or (runtime.device == "auto" and torch.cuda.is_available()):
        if place.local_size > torch.cuda.device_count():
            raise UserError(
                f"runtime.processes: {place.local_size} on {socket.gethostname()}, which has "
                f"{torch.cuda.device_count()} GPUs, and each process needs its own",
                hint="lower it, or compute on the CPU with runtime.device=cpu",
            )
        changes["device"] = f"cuda:{place.local_rank}"
    elif runtime.cohort == "auto" and runtime.memory_gb is None:
        changes["memory_gb"] = memory_budget(runtime, torch.device("cpu")) / place.local_size / GIB
    return recipe.model_copy(update={"runtime": runtime.model_copy(update=changes)})


def _join(order: Mapping[str, Any], group: ProcessGroup) -> Session:
    """Open what the first process has prepared."""
    path = Path(order["path"])

    def build() -> Session:
        with suppress(OSError):
            if (path / SEEN_BY_ALL).read_text(encoding="utf-8") == order["token"]:
                quiet_libraries()
                recipe = recipe_here(parse_recipe(order["recipe"]), group.place)
                return assemble(recipe, path, reopen(path / DATA, order["data"]), group)
        raise UserError(
            f"--out: process {group.rank} on {socket.gethostname()} does not see the run directory {path}",
            hint="on several machines it must be in a folder that they share",
        )

    return _open_together(build, group)


def _open_together(build: Callable[[], Session], group: ProcessGroup) -> Session:
    """Open the session in every process, and check that they are about to compute the same."""
    opened: list[Session] = []

    def work() -> bytes:
        opened.append(build())
        return pack_message({"host": socket.gethostname(), "facts": _facts(opened[0])})

    parts = [unpack_message(part, f"process {rank}")[0] for rank, part in enumerate(group.exchange(work))]
    first = parts[0]
    for rank, part in enumerate(parts):
        for key, value in first["facts"].items():
            if part["facts"].get(key) != value:
                raise UserError(
                    f"the processes differ in {key}: {value!r} in process 0 on {first['host']}, "
                    f"{part['facts'].get(key)!r} in process {rank} on {part['host']}"
                )
    return opened[0]


def _facts(session: Session) -> dict[str, Any]:
    """What must be the same in all processes: in particular what follows from a machine's software and hardware."""
    facts = describe_session(session)
    versions = {f"version of {name}": version for name, version in facts.pop("versions").items()}
    return facts | versions | {"device": session.model.device.type}


class _LedAlgorithm(Wrapped):
    """An algorithm whose step the other processes take as well, each with its own clients' updates."""

    def __init__(self, algorithm: Algorithm, arm: int, group: ProcessGroup) -> None:
        super().__init__(algorithm)
        self._arm = arm
        self._group = group

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """Tell the others of the step, and take it; see `Algorithm`."""
        tensors = {ADAPTER + name: value for name, value in adapter.items()}
        tensors |= {STATE + name: value for name, value in state.items()}
        self._group.tell({"do": "step", "arm": self._arm}, tensors)
        return self.inner.step(adapter, state, updates)


def _led(arm: Arm, index: int, group: ProcessGroup) -> Arm:
    def evaluate(adapter: Tensors, number: int) -> dict[str, Any]:
        group.tell({"do": "evaluate", "arm": index, "round": number}, adapter)
        return arm.evaluate(adapter, number)

    return replace(arm, algorithm=_LedAlgorithm(arm.algorithm, index, group), evaluate=evaluate)


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
