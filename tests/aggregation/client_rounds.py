"""Rounds on functions with known gradients: client rules called in the order in which the runtime calls them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fedloom.aggregation import ClientRound, Update


@dataclass
class Client:
    """A client with a loss of its own.

    Args:
        gradient: of its loss, as a function of a vector.
        steps: local steps a round.
        examples: its training examples.
        kept: what it keeps between rounds.
    """

    gradient: object
    steps: int = 2
    examples: int = 1
    kept: dict = field(default_factory=dict)

    def train(self, rule, start, rates, *, broadcast=None, received=(), adamw=False, momentum=0.0, clip=None):
        """One round: its values and what it finished with; what it keeps is kept.

        `rates` holds the learning rate of each step, or one for all.
        """
        received = dict(received)
        if rule.full_gradient:
            received["full_gradient"] = self.gradient(start)
        broadcast = start if broadcast is None else broadcast
        views = {"momentum": momentum, "views": lambda vector: {"w": vector}}
        memory = rule.begin(ClientRound(start, broadcast, received, self.kept, **views))
        values = start.clone().requires_grad_()
        if adamw:
            optimizer = torch.optim.AdamW([values], lr=1, weight_decay=0)
        else:
            optimizer = torch.optim.SGD([values], lr=1, momentum=momentum)
        rates = [rates] * self.steps if isinstance(rates, float) else rates
        for rate in rates:
            with torch.no_grad():
                gradients = self.gradient(values).clone()
                rule.before_clipping(values, gradients, memory)
                if clip is not None:
                    gradients *= min(1, clip / float(gradients.norm()))
                rule.after_clipping(values, gradients, memory, rate)
                values.grad = gradients
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                rule.after_step(values, memory)
        values = values.detach()
        finish = rule.finish(values, memory)
        self.kept = finish.kept
        return values, finish


def train_round(algorithm, adapter, state, clients, rates, present=None, **options):
    """A round of the clients named (default: all) on an adapter {"w": vector}: the next adapter and state."""
    received = {name.partition("/")[0]: value for name, value in algorithm.sent(state).items()}
    updates = []
    for name in clients if present is None else present:
        client = clients[name]
        values, finish = client.train(algorithm.client, adapter["w"], rates, received=received, **options)
        extra = {f"{key}/w": value for key, value in finish.extra.items()}
        updates.append(Update(name, {"w": values - adapter["w"]}, client.examples, finish.metrics, extra))
    return algorithm.step(adapter, state, updates)
