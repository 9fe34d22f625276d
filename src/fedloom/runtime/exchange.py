"""What crosses between server and clients in one round, and what stays with a client from round to round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fedloom.aggregation import Algorithm, Update
from fedloom.aggregation.client_rule import ClientRule
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.ranks import cut_to_rank, pad_to_layout
from fedloom.runtime.attack import Attack
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.crossing import crossing
from fedloom.runtime.curriculum import Curriculum, Lesson
from fedloom.runtime.pruning import ClientPruning
from fedloom.runtime.sparse_updates import SparseUpdates
from fedloom.runtime.task import ClientTask
from fedloom.training.client import ClientWork
from fedloom.training.cohort import ClientResult
from fedloom.training.entries import MaskedEntries, SquareEntries, TrainedEntries
from fedloom.training.shared_entries import SharedOnly
from fedloom.wire.encoding import encode

# Parts of a client's state: an adapter or a part of one that is its own, its optimiser's moments, what the rules keep,
# how hard its examples are, which of its own entries matter most, and which units of the base.
ADAPTER, MOMENTS, KEPT, PERSONAL = "adapter/", "optimizer/", "kept/", "personal/"
CURRICULUM, SPARSE, PRUNING = "curriculum/", "sparse/", "pruning/"
# A rule's own adapter is what it keeps under this name.
OWN_ADAPTER = "personal"


class Exchange:
    """One round's traffic, for any of its clients.

    Args:
        grouped: the adapters' layout.
        plan: the round.
        broadcast: the adapter, and what the algorithm sends beside it.
        algorithm: whose clients' half says how they train.
        store: clients' state from round to round.
        private: patterns of the names of tensors that stay with their client, as the plan's private layers do.
        rank_of: a client's rank.
        attack: which clients do not send what they have learnt.
        curriculum: chooses what clients train on; None: everything.
        sparse: what clients train of private tensors, given their names and those of all that are trained.
        pruning: what clients leave out of the base, given the names of what is trained; None: nothing.
    """

    def __init__(
        self,
        grouped: GroupedAdapter[Any],
        plan: RoundPlan,
        broadcast: Mapping[str, Tensor],
        algorithm: Algorithm,
        store: ClientStore,
        private: Sequence[str],
        rank_of: Callable[[str], int],
        attack: Attack | None,
        curriculum: Curriculum | None,
        sparse: Callable[[set[str], set[str]], SparseUpdates] | None,
        pruning: Callable[[set[str]], ClientPruning] | None,
    ) -> None:
        self.grouped = grouped
        self.plan = plan
        self.algorithm = algorithm
        self.store = store
        self.rank_of = rank_of
        self.attack = attack
        self.curriculum = curriculum
        # What an algorithm sends beside the adapter has a prefix.
        self.adapter = {name: value for name, value in broadcast.items() if "/" not in name}
        names = crossing(self.adapter, plan, algorithm, private)
        trained, self.private, self.sent_up, down = names.trained, names.private, names.up, names.down
        square = plan.trained == "R"
        self.entries = SquareEntries(grouped, self.adapter) if square else TrainedEntries(grouped, trained)
        # What the algorithm's rule works on: private entries are trained plainly.
        self.rule, self.rule_entries = algorithm.client, self.entries
        if self.private and type(self.rule) is not ClientRule:
            self.rule_entries = TrainedEntries(grouped, self.sent_up)
            sent = set(self.sent_up)
            places = self.entries.views(torch.arange(sum(self.adapter[name].numel() for name in trained)))
            shared = torch.cat([places[name].reshape(-1) for name in grouped.shapes if name in sent]).to(grouped.device)
            self.rule = SharedOnly(self.rule, shared, self.rule_entries.views)
        self.sparse = sparse(self.private, trained) if sparse is not None and plan.sparse else None
        self.pruning = pruning(trained) if pruning is not None and plan.prune_rates else None
        beside = {name: value for name, value in broadcast.items() if "/" in name}
        self.versions = _sections(beside, "version")
        self.received = {
            prefix: self.rule_entries.flatten(_with_prefix(beside, prefix + "/"))
            for prefix in {name.partition("/")[0] for name in beside} - {"version", "base"}
        }
        beside = {name: value for name, value in beside.items() if not name.startswith("version/")}
        self.full_rank = max((shape[0] for name, shape in grouped.shapes.items() if ".lora_A." in name), default=0)
        # What each client at work began with.
        self._ranks: dict[str, int] = {}
        self._lessons: dict[str, Lesson] = {}
        self._sizes: dict[tuple[tuple[str, torch.Size], ...], int] = {}

        @cache
        def bytes_down(rank: int) -> int:
            adapter = {name: value for name, value in self.adapter.items() if name in down}
            return len(encode({**(cut_to_rank(adapter, rank) if rank < self.full_rank else adapter), **beside}))

        self.bytes_down = bytes_down

    def work(self, tasks: Sequence[ClientTask]) -> list[list[ClientWork]]:
        """What clients have to do: train what they are sent, and their own adapters where the algorithm has some.

        Args:
            tasks: the rounds of a cohort's clients.

        Returns:
            For each one piece of work, or two.
        """
        states = [self.store.load(self.plan.arm, task.client, self.plan.round) or {} for task in tasks]
        work = [self._work(task, stored) for task, stored in zip(tasks, states, strict=True)]
        if self.sparse is not None:
            kept = [_with_prefix(stored, SPARSE) for stored in states]
            shares = [self.plan.sparse[task.client] for task in tasks]
            every = self.sparse.entries(tasks, kept, shares)
            work = [
                [replace(pieces[0], entries=entries, rule=self._rule_within(entries), fisher=True), *pieces[1:]]
                for pieces, entries in zip(work, every, strict=True)
            ]
        if self.curriculum is None or self.plan.data_share == 1:
            return work
        known = [_with_prefix(stored, CURRICULUM) for stored in states]
        lessons = self.curriculum.lessons(self.plan, tasks, work, known)
        self._lessons |= {task.client: lesson for task, lesson in zip(tasks, lessons, strict=True)}
        return [lesson.work for lesson in lessons]

    def _work(self, task: ClientTask, stored: Mapping[str, Tensor]) -> list[ClientWork]:
        plan = self.plan
        own = _with_prefix(stored, ADAPTER)
        if plan.personal:
            moments = _with_prefix(stored, MOMENTS) or None
            return [ClientWork(task.client, task.examples, task.batches, own or dict(self.adapter), moments)]
        kept = _with_prefix(stored, KEPT)
        # A rank that its rule has lowered is kept; see HetLoRA.
        rank = self._ranks[task.client] = int(kept["rank"]) if "rank" in kept else self.rank_of(task.client)
        start = self._start(task.client, rank)
        begin = {**start, **{name: own[name] for name in self.private if name in own}} if self.private else start
        pieces = [self._piece(task, self.rule, begin, start, kept, rank)]
        if self.pruning is not None and (prune_rate := plan.prune_rates.get(task.client, 0.0)):
            omission = self.pruning.choose(task, begin, _with_prefix(stored, PRUNING), prune_rate)
            pieces = [replace(pieces[0], entries=self.pruning.entries(task.client), omission=omission)]
        if self.algorithm.personal is not None:
            personal = _with_prefix(stored, PERSONAL)
            pieces.append(self._piece(task, self.algorithm.personal, own or start, start, personal, rank))
        return pieces

    def updates(self, tasks: Sequence[ClientTask], results: Sequence[Sequence[ClientResult]]) -> list[Update]:
        """What clients send; what they keep is stored.

        Args:
            tasks: the rounds of a cohort's clients.
            results: of each, one for each piece of its work.

        Returns:
            Their updates.
        """
        kept: list[dict[str, Tensor]] = [{} for _ in tasks]
        if self.sparse is not None:
            kept = self.sparse.states(tasks, [pieces[0] for pieces in results])
        return [
            self._update(task, pieces, {SPARSE + name: vector for name, vector in own.items()})
            for task, pieces, own in zip(tasks, results, kept, strict=True)
        ]

    def _update(self, task: ClientTask, results: Sequence[ClientResult], learnt: dict[str, Tensor]) -> Update:
        result, plan = results[0], self.plan
        lesson = self._lessons.pop(task.client, None)
        if lesson is not None:
            learnt |= {CURRICULUM + name: value for name, value in lesson.kept.items()}
        if plan.personal:
            kept = learnt | {ADAPTER + name: value for name, value in result.adapter.items()}
            kept |= {MOMENTS + name: value for name, value in result.optimizer_state.items()}
            self.store.save(plan.arm, task.client, plan.round, kept)
        else:
            self._keep(task, results, learnt)
        rank = self._ranks.get(task.client, self.full_rank)
        start = self._start(task.client, rank)
        delta = {name: result.adapter[name] - start[name] for name in self.sent_up}
        if self.algorithm.mixed_ranks:
            delta = cut_to_rank(delta, int(result.finish.metrics.get("rank", rank)))
        extra = {
            f"{prefix}/{name}": value
            for prefix, vector in result.finish.extra.items()
            for name, value in self.rule_entries.views(vector).items()
        }
        if self.pruning is not None:
            delta, units = self.pruning.sent(task.client, delta)
            extra |= units
        if self.attack is not None:
            delta = self.attack.poisoned(delta, task.client, plan.round)
        metrics: dict[str, float] = {
            "loss": result.loss,
            "tokens": sum(one.tokens for one in results),
            "label_tokens": result.label_tokens,
            "steps": result.steps,
            "bytes_up": self._bytes_up({**delta, **extra}),
            "bytes_down": self.bytes_down(rank),
            **result.finish.metrics,
            **({} if lesson is None else lesson.metrics),
        }
        if task.client in plan.versions:
            metrics["staleness"] = plan.round - 1 - plan.versions[task.client]
        return Update(task.client, delta, len(task.examples), metrics, extra)

    def _bytes_up(self, tensors: Mapping[str, Tensor]) -> int:
        # Clients send tensors of the same few shapes: it is written once for each.
        shapes = tuple((name, value.shape) for name, value in tensors.items())
        if shapes not in self._sizes:
            self._sizes[shapes] = len(encode(tensors))
        return self._sizes[shapes]

    def _start(self, client: str, rank: int) -> Adapter:
        # The newest version is the adapter itself.
        adapter = self.versions.get(str(self.plan.versions.get(client)), dict(self.adapter))
        if not self.algorithm.mixed_ranks:
            return adapter
        return pad_to_layout(cut_to_rank(adapter, rank), self.grouped.shapes)

    def _piece(
        self,
        task: ClientTask,
        rule: ClientRule,
        start: Adapter,
        broadcast: Adapter,
        kept: Mapping[str, Tensor],
        rank: int,
    ) -> ClientWork:
        received = {**self.received, "rank": torch.tensor([float(rank)])}
        return ClientWork(
            task.client, task.examples, task.batches, start, None, rule, broadcast, received=received, kept=kept
        )

    def _rule_within(self, entries: MaskedEntries) -> ClientRule:
        """The rule, where a client trains only some entries: what is shared lies elsewhere among them."""
        if not isinstance(self.rule, SharedOnly):
            return self.rule
        return SharedOnly(self.algorithm.client, entries.places_of(self.rule_entries), self.rule_entries.views)

    def _keep(self, task: ClientTask, results: Sequence[ClientResult], learnt: Mapping[str, Tensor]) -> None:
        result = results[0]
        kept = {**learnt, **{ADAPTER + name: result.adapter[name] for name in sorted(self.private)}}
        for name, vector in result.finish.kept.items():
            if name == OWN_ADAPTER:
                kept |= {ADAPTER + inner: value for inner, value in self.entries.views(vector).items()}
            else:
                kept[KEPT + name] = vector
        if len(results) > 1:
            kept |= {ADAPTER + name: value for name, value in results[1].adapter.items()}
            kept |= {PERSONAL + name: vector for name, vector in results[1].finish.kept.items()}
        if self.pruning is not None:
            kept |= {PRUNING + name: value for name, value in self.pruning.state(task.client).items()}
        if kept:
            self.store.save(self.plan.arm, task.client, self.plan.round, kept)


def personal_adapter(store: ClientStore, arm: str, client: str, rounds: int) -> dict[str, Tensor]:
    """The adapter a client kept for itself, or the part of one.

    Args:
        store: clients' state.
        arm: the arm of the run.
        client: the client's name.
        rounds: rounds trained so far.

    Returns:
        Its tensors; empty where it never trained.
    """
    return _with_prefix(store.load(arm, client, rounds + 1) or {}, ADAPTER)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _sections(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """Tensors under "<prefix>/<section>/<name>", by section."""
    sections: dict[str, dict[str, Tensor]] = {}
    for name, value in _with_prefix(tensors, prefix + "/").items():
        section, _, inner = name.partition("/")
        sections.setdefault(section, {})[inner] = value
    return sections
