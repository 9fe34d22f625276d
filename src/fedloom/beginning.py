"""What a run began with, as the first line of its event log says, and that it still is what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from fedloom import __version__
from fedloom.data.federated import FederatedData
from fedloom.errors import UserError
from fedloom.model.fingerprint import base_fingerprint
from fedloom.model.grouped_adapter import Adapter
from fedloom.model.start import first_adapter, start_fingerprint, start_of
from fedloom.participation import scenario_fingerprint
from fedloom.recipe import Recipe
from fedloom.report.events import read_events
from fedloom.run_directory import EVENTS
from fedloom.session import Session

# In the event that a run begins with.
FINGERPRINTS = "fingerprints"


def describe_session(session: Session) -> dict[str, Any]:
    """What a reader of the event log wants to know about a run before its first round.

    Args:
        session: what the run works with.

    Returns:
        Names, sizes, device and versions.
    """
    model = session.model
    return {
        "name": session.recipe.name,
        "fedloom": __version__,
        "clients": len(session.data.clients),
        "examples": session.data.totals(),
        "parameters": {"base": model.num_parameters(), "trainable": session.grouped.size},
        "adapter": session.recipe.model.adapter.kind,
        # Only where it is so: other kinds train several clients in one pass.
        **({} if session.grouped.cohorts else {"one_client_at_a_time": True}),
        # What the result `base` then says is what chance does.
        **({"fresh_head": True} if session.grouped.has_fresh_head else {}),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        FINGERPRINTS: {"base": base_fingerprint(session.recipe.model), "data": session.data.fingerprint},
    }


def adapter_at_start(session: Session) -> Adapter:
    """What every arm of a run starts from; see `first_adapter`."""
    return first_adapter(session.grouped, session.recipe.model.adapter, session.recipe.seed)


def first_event(session: Session) -> dict[str, Any]:
    """What a run's event log begins with: also what the process that runs the loop alone has to find on its machine.

    Args:
        session: what the run works with, in that process.

    Returns:
        Fields of the event, with fingerprints of the adapter that training starts from and of the scenario, if any.
    """
    facts, recipe = describe_session(session), session.recipe
    found = facts[FINGERPRINTS] | start_fingerprint(recipe.model.adapter) | _scenario_of(recipe)
    return facts | {FINGERPRINTS: found}


def _scenario_of(recipe: Recipe) -> dict[str, str]:
    wireless = recipe.federation.participation.wireless
    return {} if wireless is None else {"scenario": scenario_fingerprint(wireless)}


def check_same_beginning(recipe: Recipe, directory: Path) -> None:
    """Check, before anything is loaded, that base, start and scenario are what they were when a run began.

    Args:
        recipe: the run.
        directory: its folder.

    Raises:
        UserError: for the first of them that has changed.
    """
    check_same_base(recipe, directory)
    check_same_start(recipe, directory)
    check_same_scenario(recipe, directory)


def check_same_base(recipe: Recipe, directory: Path) -> None:
    """Check that the base model is the one that the run began with.

    Args:
        recipe: the run.
        directory: the run directory.

    Raises:
        UserError: where its weights or its config.json have changed.
    """
    if base_fingerprint(recipe.model) != fingerprints(directory)["base"]:
        raise UserError(
            f"model.base: {recipe.model.base!r} is not the model that the run in {directory} began with: "
            "its weights or config.json have changed",
            hint="put the former files back, or begin anew in a new folder",
        )


def check_same_start(recipe: Recipe, directory: Path) -> None:
    """Check that the adapter that training starts from is the one that the run began with.

    Args:
        recipe: the run.
        directory: the run directory.

    Raises:
        UserError: where its files have changed, or are gone.
    """
    if start_fingerprint(recipe.model.adapter).get("start") != fingerprints(directory).get("start"):
        raise UserError(
            f"model.adapter.start: {str(start_of(recipe.model.adapter))!r} is not the adapter that the run in "
            f"{directory} began with: its files have changed",
            hint="put the former files back, or begin anew in a new folder",
        )


def check_same_scenario(recipe: Recipe, directory: Path) -> None:
    """Check that the radio cell is the one that the run began with.

    Args:
        recipe: the run.
        directory: the run directory.

    Raises:
        UserError: where the scenario's file or its trace has changed, or is gone.
    """
    if _scenario_of(recipe).get("scenario") != fingerprints(directory).get("scenario"):
        raise UserError(
            f"federation.participation.wireless.scenario: not what the run in {directory} began with: its file or its "
            "trace has changed",
            hint="put the former files back, or begin anew in a new folder",
        )


def check_same_data(data: FederatedData, directory: Path) -> None:
    """Check that the tokenised data are those that the run began with.

    Args:
        data: of the run.
        directory: the run directory.

    Raises:
        UserError: where a source, the template or the tokenizer has changed.
    """
    if data.fingerprint != fingerprints(directory)["data"]:
        raise UserError(
            f"data: not what the run in {directory} began with: a source, the template or the tokenizer has changed",
            hint="put the former files back, or begin anew in a new folder",
        )


def fingerprints(directory: Path) -> dict[str, str]:
    """The fingerprints of the base, the data, the adapter to start from and the scenario that a run began with.

    Args:
        directory: the run directory.

    Returns:
        Under "base" and "data", and "start" and "scenario" where the recipe names one.

    Raises:
        UserError: where the run noted none.
    """
    found: dict[str, str] | None = read_events(directory / EVENTS)[0].get(FINGERPRINTS)
    if found is None:
        raise UserError(f"{directory}: begun by a Fedloom that kept no fingerprints of the base model and the data")
    return found
