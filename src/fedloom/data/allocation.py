"""Who trains and tests on what, decided from records alone, so that mistakes show before a model loads."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedloom.data.conversation import (
    Message,
    UnusableRecord,
    check_fields,
    conversation_of,
    field_keys,
    field_text,
)
from fedloom.data.difficulty_column import KEY as DIFFICULTY_KEY
from fedloom.data.difficulty_column import difficulty_column, difficulty_of
from fedloom.data.labelled_text import LabelledText, class_names, labelled_text_of
from fedloom.data.partition import key_text, partition_records
from fedloom.data.preferences import Preference, by_annotator, preference_of
from fedloom.data.readers import Record
from fedloom.data.sources import locate, read_locations
from fedloom.data.splits import (
    SPLITS,
    Split,
    choose_unseen,
    drawn_records,
    marked_records,
    split_by_key,
    split_client,
    split_together,
)
from fedloom.data.templates import check_template_name
from fedloom.errors import UserError
from fedloom.recipe.data_schema import (
    DataConfig,
    GlobalTestConfig,
    PartitionByKey,
    PartitionDirichlet,
    PartitionFiles,
    PartitionLabelPrior,
    SourceConfig,
    SplitConfig,
)
from fedloom.recipe.participation_schema import check_concurrency
from fedloom.recipe.schema import Recipe

POCKET_GLOBAL = {"client": "all-families"}
SMALL_CLIENT = "client below min_examples"

Content = list[Message] | LabelledText | Preference


@dataclass(frozen=True, slots=True)
class Example:
    """A record that is used, and for what.

    Args:
        content: the conversation or, by the task, the labelled text or the preference.
        origin: where the record stands, for error messages.
        owner: the client's name, None for the global test.
        split: what it is used for; of the global test "validation" or "test".
        category: the value of data.category, empty where there is none.
        key: the value of the field that a partition skews, empty for partitions that skew none.
        difficulty: of training examples the value of local.curriculum.difficulty.column; else 0.
    """

    content: Content
    origin: str
    owner: str | None
    split: Split
    category: str
    key: str
    difficulty: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """Everything about the data that does not depend on a tokenizer.

    Args:
        examples: the records that are used.
        clients: training clients, sorted.
        unseen: clients held out of training, sorted.
        dropped: client -> reason -> records left out; "" stands for records that reached no client.
        labels: names of the classes, in their order; empty for other tasks than classification.
    """

    examples: list[Example]
    clients: list[str]
    unseen: list[str]
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)


def effective_data(data: DataConfig) -> DataConfig:
    """Fill in the defaults that pocket-tasks brings.

    Its rows carry their own split and a client that is the global test. Each default applies where the
    section holds its general default: a resolved recipe, which spells every default out, means the same.

    Args:
        data: the recipe's data section.

    Returns:
        The section to act on.
    """
    if not data.checkable:
        return data
    changes: dict[str, object] = {}
    if data.split.model_dump() == SplitConfig().model_dump():
        changes["split"] = SplitConfig(key="split")
    if data.global_test is None:
        changes["global_test"] = GlobalTestConfig(where=dict(POCKET_GLOBAL))
    if data.category is None:
        changes["category"] = "family"
    return data.model_copy(update=changes)


def allocate(recipe: Recipe) -> Allocation:
    """Read, check, partition and split the records of a recipe.

    Args:
        recipe: the recipe.

    Returns:
        Every used record with its owner and split.

    Raises:
        UserError: for any mistake in the data or in what the recipe says about it.
    """
    data = effective_data(recipe.data)
    if recipe.task.kind != "classification":
        check_template_name(data.template)
    local, common = (by_annotator(records, data) for records in _read(data, recipe.seed))
    _check_all_fields(data, local, common)

    members, dropped = _share_out(local, data, recipe.seed)
    everyone = sorted(members.keys() | (dropped.keys() - {""}))
    unseen = choose_unseen(everyone, data.unseen_clients, recipe.seed)
    held_out = set(unseen)

    annotated = any(fields.annotators for fields in data.fields_in_use().values())
    together = split_together(local, data.split, recipe.seed) if annotated else {}
    column = difficulty_column(recipe)
    if column is not None:
        check_fields(local, {DIFFICULTY_KEY: column}, {})
    examples = []
    for owner in everyone:
        records = [record for record, _ in members[owner]]
        splits: list[Split] = ["test"] * len(records)
        if owner not in held_out:
            splits = (
                [together[record.origin] for record in records]
                if together
                else split_client(records, data.split, recipe.seed, owner)
            )
        for (record, content), split in zip(members[owner], splits, strict=True):
            example = _example(record, content, owner, split, data)
            if column is not None and split == "train":
                example = replace(example, difficulty=difficulty_of(record, column))
            examples.append(example)
    examples.extend(_global_examples(common, data, dropped))
    if recipe.task.pairs_are_split:
        examples = [half for example in examples for half in _halves(example)]

    clients = [owner for owner in everyone if owner not in held_out]
    counts = count_splits(examples)
    check_clients(clients, counts, dropped)
    check_numbers(recipe, len(clients))
    labels = []
    if recipe.task.kind == "classification":
        contents = (example.content for example in examples)
        labels = class_names([one for one in contents if isinstance(one, LabelledText)], recipe.task.labels)
    return Allocation(examples, clients, unseen, dict(dropped), labels)


def count_splits(examples: Iterable[Example]) -> dict[str, Counter[str]]:
    """Count examples by client and split; the global test is left out."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in examples:
        if example.owner is not None:
            counts[example.owner][example.split] += 1
    return counts


def check_clients(
    clients: Sequence[str],
    counts: Mapping[str, Counter[str]],
    dropped: Mapping[str, Counter[str]],
) -> None:
    """Check that every training client has something to train on.

    Args:
        clients: the training clients.
        counts: client -> split -> examples.
        dropped: client -> reason -> records left out.

    Raises:
        UserError: naming the first client that has nothing, and what became of its records.
    """
    for client in clients:
        held, lost = counts.get(client, Counter()), dropped.get(client, Counter())
        if held["train"]:
            continue
        fates = [f"{number} dropped as {reason}" for reason, number in sorted(lost.items())]
        fates += [f"{held[split]} {split}" for split in SPLITS if held[split]]
        total = held.total() + lost.total()
        raise UserError(
            f"client {client!r} has no training examples "
            f"({total} record{'s' if total != 1 else ''}: {', '.join(fates)})",
            hint="give it records to train on, or take it out of data.source",
        )


def check_numbers(recipe: Recipe, clients: int) -> None:
    """Check that a round finds as many clients as the recipe asks for, and an evaluation more than it takes.

    Args:
        recipe: the recipe.
        clients: number of training clients.

    Raises:
        UserError: with both numbers.
    """
    wanted = recipe.federation.clients_per_round
    if wanted > clients:
        raise UserError(f"federation.clients_per_round: {wanted} is above the number of training clients, {clients}")
    attack = recipe.federation.attack
    if attack is not None and math.floor(attack.share * clients + 1e-9) < 1:
        raise UserError(f"federation.attack.share: {attack.share:g} of {clients} clients is nobody: it has no effect")
    if recipe.federation.algorithm.name == "fedbuff":
        check_concurrency(wanted, recipe.federation.algorithm.parameters["buffer_size"], clients)
    tested, unseen = recipe.evaluation.max_clients, recipe.data.unseen_clients
    if tested is not None and tested >= max(clients, unseen):
        raise UserError(
            f"evaluation.max_clients: {tested} has no effect: there are {clients} training and {unseen} unseen clients",
            hint="leave it out to test all of them",
        )


def _read(data: DataConfig, seed: int) -> tuple[list[Record], list[Record]]:
    """Read the records of the clients and those of the global test."""
    records = read_locations(locate(data.source), seed)
    rule = data.global_test
    if data.checkable and (rule is None or rule.where != POCKET_GLOBAL):
        # The rows of the suite's own global test are no client's, whatever the recipe tests on instead.
        records = [record for record in records if record.values["client"] != POCKET_GLOBAL["client"]]
    if rule is None:
        return records, []
    if rule.where is not None:
        for name in rule.where:
            check_fields(records, {}, {"data.global_test.where": name})
        marked = marked_records(records, rule.where)
    elif rule.fraction is not None:
        marked = drawn_records(len(records), rule.fraction, seed)
    else:
        assert rule.source is not None
        key = "data.global_test.source"
        return records, read_locations(locate(rule.source, key), seed, key)
    common = [record for record, mark in zip(records, marked, strict=True) if mark]
    local = [record for record, mark in zip(records, marked, strict=True) if not mark]
    return local, common


def _check_all_fields(data: DataConfig, local: Sequence[Record], common: Sequence[Record]) -> None:
    general: dict[str, str] = {}
    if isinstance(data.partition, PartitionByKey | PartitionDirichlet | PartitionLabelPrior):
        general["data.partition.key"] = data.partition.key
    if data.split.key is not None:
        general["data.split.key"] = data.split.key
    keys: list[tuple[str, SourceConfig | None]] = [("data", None), *data.sections().items()]
    for key, source in keys:
        fields, own = data.fields_of(source), source is not None and source.fields is not None
        required, optional = field_keys(fields, f"{key if own else 'data'}.fields")
        check_fields([record for record in common if record.source is source], required, {})
        check_fields([record for record in local if record.source is source], required | general, optional)
    if data.category is not None:
        check_fields(common, {"data.category": data.category}, {})


def _share_out(
    records: Sequence[Record], data: DataConfig, seed: int
) -> tuple[dict[str, list[tuple[Record, Content]]], dict[str, Counter[str]]]:
    """Find the used records of each client, and how many were left out of each and why."""
    read = [(record, _content(record, data)) for record in records]
    members: dict[str, list[tuple[Record, Content]]] = defaultdict(list)
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    if not isinstance(data.partition, PartitionByKey | PartitionFiles):
        # A drawn partition shares out what is used, so that its promise on sizes holds.
        for _, told in read:
            if isinstance(told, str):
                dropped[""][told] += 1
        read = [(record, told) for record, told in read if not isinstance(told, str)]
        if not read:
            fates = ", ".join(f"{number} dropped as {reason}" for reason, number in sorted(dropped[""].items()))
            raise UserError(f"data.source: none of its {len(records)} records can be used: {fates}")
    owners = partition_records([record for record, _ in read], data.partition, seed, data.split.key)
    for (record, told), owner in zip(read, owners, strict=True):
        if isinstance(told, str):
            dropped[owner][told] += 1
        else:
            members[owner].append((record, told))
    if isinstance(data.partition, PartitionByKey) and data.partition.min_examples is not None:
        _leave_small_out(members, dropped, data.partition.min_examples)
    return members, dropped


def _leave_small_out(
    members: dict[str, list[tuple[Record, Content]]], dropped: dict[str, Counter[str]], smallest: int
) -> None:
    """Take clients with too few records out, in place; their records count as nobody's."""
    for owner in members.keys() | (dropped.keys() - {""}):
        held = len(members.get(owner, []))
        if held < smallest:
            members.pop(owner, None)
            dropped[""] += dropped.pop(owner, Counter())
            dropped[""][SMALL_CLIENT] += held
    if not members:
        raise UserError(f"data.partition.min_examples: no client has {smallest} records")


def _content(record: Record, data: DataConfig) -> Content | str:
    """Give what the record holds, or the reason why it is not used."""
    try:
        fields = data.fields_of(record.source)
        if fields.form == "class":
            return labelled_text_of(record, fields)
        instruction = record.source.instruction if record.source is not None else None
        if fields.form != "answer":
            return preference_of(record, fields, instruction)
        return conversation_of(record, fields, instruction)
    except UnusableRecord as reason:
        return str(reason)


def _example(record: Record, content: Content, owner: str | None, split: Split, data: DataConfig) -> Example:
    category = field_text(record, data.category) if data.category is not None else ""
    key = ""
    if isinstance(data.partition, PartitionDirichlet | PartitionLabelPrior) and owner is not None:
        key = key_text(record, data.partition.key)
    return Example(content, record.origin, owner, split, category, key)


def _halves(example: Example) -> list[Example]:
    """The two answers of a pair as examples of their own."""
    assert isinstance(example.content, Preference)
    return [replace(example, content=half) for half in example.content.split()]


def _global_examples(records: Sequence[Record], data: DataConfig, dropped: dict[str, Counter[str]]) -> list[Example]:
    examples = []
    for record in records:
        content = _content(record, data)
        if isinstance(content, str):
            dropped[""][content] += 1
            continue
        key = data.split.key
        said = split_by_key(record, key) if key is not None and key in record.values else "test"
        split: Split = "validation" if said == "validation" else "test"
        examples.append(_example(record, content, None, split, data))
    if records and not examples:
        raise UserError("data.global_test: none of its records can be used: " + ", ".join(dropped[""]))
    return examples
