"""The contract of an algorithm: `init` and `step` on named tensors, and what it asks of clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.client_rule import ClientRule

Tensors = Mapping[str, Tensor]
State = dict[str, Tensor]
Weighting = Annotated[
    Literal["examples", "tokens", "uniform"],
    Field(description="A client's weight: its training examples, its trained label tokens, or 1."),
]
# Which of LoRA's factors; other trainable tensors are always meant as well. R is Fed-SB's, square, between A and B.
Factors = Literal["both", "A", "B", "R"]


class RejectedUpdate(ValueError):
    """An update that must not be aggregated: what is wrong with it, in one line."""


class FromRun:
    """Marks a parameter of an algorithm that follows from the run, and is no key of a recipe."""


@dataclass(frozen=True)
class Update:
    """What a client sends after a round.

    Args:
        client: its name.
        delta: its adapter minus the one it was sent, under the same names.
        num_examples: its training examples.
        metrics: numbers it reports; `label_tokens` is what the weighting "tokens" reads.
        extra: further tensors an algorithm needs, e.g. control variates as "control/<name>".
    """

    client: str
    delta: Tensors
    num_examples: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    extra: Tensors = field(default_factory=dict)


class Algorithm:
    """An aggregation rule with its server state, both plain named tensors, and its clients' half."""

    # How clients train the adapter that they are sent.
    client: ClientRule = ClientRule()
    # How they train, besides, an adapter of their own that nobody else sees; None: they don't.
    personal: ClientRule | None = None
    # Whether clients end up with whole adapters of their own: by `personal`, or because their rule keeps one as
    # `ClientFinish.kept["personal"]`.
    personal_adapters: bool = False
    # The factors that clients send; the others stay with their client.
    shared: Factors = "both"
    # Whether `sent` holds a change of the base model: factors "base/<layer>.lora_A.weight" [R, in] and
    # "base/<layer>.lora_B.weight" [out, R], whose product is added to the layer's weight.
    changes_base: bool = False
    # Whether clients' adapters may differ in rank.
    mixed_ranks: bool = False

    def prepared(self, adapter: Tensors) -> dict[str, Tensor]:
        """The adapter that will be trained.

        Args:
            adapter: A and B of each layer as LoRA starts.

        Returns:
            The same, unless the algorithm trains other tensors.
        """
        return dict(adapter)

    def init(self, adapter: Tensors) -> State:
        """The server's state before the first round.

        Args:
            adapter: the adapter that will be trained.

        Returns:
            Named tensors.
        """
        return {}

    def sent(self, state: State) -> dict[str, Tensor]:
        """What clients are sent beside the adapter.

        Args:
            state: the server's state.

        Returns:
            Tensors under "<prefix>/<name of the adapter's tensor>".
        """
        return {}

    def trained(self, state: State) -> Factors:
        """The factors that clients train in the next round.

        Args:
            state: the server's state.

        Returns:
            Both, or the name of one.
        """
        return "both"

    def fetched(self, state: State) -> Factors:
        """The factors that clients have to be sent for the next round; they know the others.

        Args:
            state: the server's state.

        Returns:
            Those shared, unless the algorithm says otherwise.
        """
        return self.shared

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """Turn one round's updates, each as it arrives, into the next adapter.

        Args:
            adapter: what was sent to the clients.
            state: the server's state.
            updates: the clients' updates: to `collect`, or, where sums are all it takes, to `fold`. Both leave out
                those that are not acceptable.

        Returns:
            The next adapter and state; the given ones are left as they are. Without an acceptable update they stay.
        """
        raise NotImplementedError


def update_weight(update: Update, weighting: Weighting) -> float:
    """A client's weight before normalisation.

    Args:
        update: the client's update.
        weighting: by training examples, by trained label tokens, or all alike.

    Returns:
        A positive number.

    Raises:
        RejectedUpdate: where the weight is missing or not positive.
    """
    if weighting == "uniform":
        return 1.0
    weight = update.num_examples if weighting == "examples" else update.metrics.get("label_tokens")
    if weight is None or not 0 < weight < float("inf"):
        raise RejectedUpdate(f"weight by {weighting} is {weight}, must be > 0")
    return float(weight)
