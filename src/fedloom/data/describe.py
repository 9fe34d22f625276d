"""What the data of a recipe looks like: numbers for a program, a table for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedloom.data.federated import FederatedData
from fedloom.data.shards import ExampleSet
from fedloom.data.splits import SPLITS
from fedloom.errors import MAX_SHOWN

SHOWN_AT_EACH_END = 10
TOP_VALUES = 3


def describe(data: FederatedData, shown_at_each_end: int = SHOWN_AT_EACH_END) -> dict[str, Any]:
    """Count examples, tokens and values.

    Args:
        data: prepared data.
        shown_at_each_end: with more than twice as many clients, only so many first and last have a row.

    Returns:
        JSON-ready: clients (number, unseen, rows, quartiles of training examples), totals, global_test,
        tokens (median, 95th percentile, max), label_tokens, classes (of classification: name -> examples of all
        training clients), preferences (pairs, median tokens of their chosen and rejected answers, in how many the
        chosen one is longer; or how many answers are desirable and how many are not; None for other tasks), dropped,
        truncated, spelt_out.
    """
    names = data.clients
    sizes = data.sizes()
    places = list(range(len(names)))
    if len(places) > 2 * shown_at_each_end:
        places = [*places[:shown_at_each_end], *places[len(places) - shown_at_each_end :]]
    training = sizes[: len(names), 0]
    everything = data.all_examples()
    common = {split: data.global_examples(split) for split in ("validation", "test")}
    return {
        "clients": {
            "number": len(names),
            "unseen": list(data.unseen[:shown_at_each_end]),
            "unseen_number": len(data.unseen),
            "training_examples": {
                name: int(value)
                for name, value in zip(
                    ("min", "quarter", "median", "three_quarters", "max"),
                    np.quantile(training, [0, 0.25, 0.5, 0.75, 1], method="nearest"),
                    strict=True,
                )
            },
            "rows": [_row(data, names[place], sizes[place]) for place in places],
        },
        "totals": data.totals(),
        "global_test": {split: len(examples) if examples else 0 for split, examples in common.items()},
        "key": "class" if data.labels else data.key or data.category,
        "tokens": _lengths(everything.lengths),
        "label_tokens": int(everything.label_counts.sum()),
        "classes": _classes(data, everything),
        "preferences": _preferences(everything),
        "dropped": data.dropped,
        "truncated": data.truncated,
        "spelt_out": data.spelt_out,
    }


def render(description: Mapping[str, Any]) -> Group:
    """Lay a description out for a terminal.

    Args:
        description: from `describe`.

    Returns:
        Something rich can print.
    """
    clients, key = description["clients"], description["key"]
    rows = clients["rows"]
    # A histogram of the field that names the client would only repeat the name.
    shows_key = bool(key) and any(list(row["top"]) != [row["client"]] for row in rows)
    table = Table(title=f"{clients['number']:,} clients", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Where the terminal is narrow, texts are cut (they may "wrap", on one line), numbers never.
    table.add_column("client")
    for column in ("train", "valid", "test", "median", "95 %", "max", *([] if description["classes"] else ["labels"])):
        table.add_column(column, justify="right", no_wrap=True)
    if shows_key:
        table.add_column(str(key))
    left_out = clients["number"] - len(rows)
    for place, row in enumerate(rows):
        if left_out and place == len(rows) // 2:
            table.add_row("...", *[""] * (len(table.columns) - 1))
        values = ", ".join(f"{value} {number}" for value, number in row["top"].items())
        table.add_row(
            _one_line(row["client"]),
            *(f"{row[split]:,}" for split in SPLITS),
            *(f"{row['tokens'][name]:,}" for name in ("median", "percentile_95", "max")),
            *([] if description["classes"] else [f"{row['label_tokens']:,}"]),
            *([_one_line(values + (", ..." if row["more_values"] else ""))] if shows_key else []),
        )
    return Group(table, *(Text(line) for line in _summary(description)))


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _row(data: FederatedData, client: str, sizes: NDArray[np.int64]) -> dict[str, Any]:
    examples = ExampleSet.concatenate([data.examples(client, split) for split in SPLITS])
    values = data.key_histogram(client) or dict(Counter(examples.categories or []).most_common())
    if data.labels:
        held = Counter({name: count for name, count in _classes(data, examples).items() if count})
        # A few are shown in the classes' order, so that clients can be compared at a glance.
        values = held if len(data.labels) <= TOP_VALUES else dict(held.most_common())
    return {
        "client": client,
        **{split: int(size) for split, size in zip(SPLITS, sizes, strict=True)},
        "tokens": _lengths(examples.lengths),
        "label_tokens": int(examples.label_counts.sum()),
        "top": dict(list(values.items())[:TOP_VALUES]),
        "more_values": max(len(values) - TOP_VALUES, 0),
    }


def _classes(data: FederatedData, examples: ExampleSet) -> dict[str, int]:
    """How many examples there are of each class; empty for other tasks than classification."""
    classes = examples.labels
    if classes is None:
        return {}
    return dict(zip(data.labels, np.bincount(classes, minlength=len(data.labels)).tolist(), strict=True))


def _preferences(examples: ExampleSet) -> dict[str, Any] | None:
    """What there is to prefer; None for other tasks than that."""
    lengths, desirable = examples.answer_lengths(), examples.all_desirable
    if lengths is not None:
        longer = int((lengths[0] > lengths[1]).sum())
        return {
            "pairs": len(examples),
            "chosen_tokens": int(np.median(lengths[0])),
            "rejected_tokens": int(np.median(lengths[1])),
            "chosen_longer": longer,
        }
    if desirable is not None:
        return {"desirable": int(desirable.sum()), "undesirable": int((~desirable).sum())}
    return None


def _lengths(lengths: NDArray[np.int64]) -> dict[str, int]:
    median, high, longest = np.quantile(lengths, [0.5, 0.95, 1], method="nearest")
    return {"median": int(median), "percentile_95": int(high), "max": int(longest)}


def _summary(description: Mapping[str, Any]) -> list[str]:
    clients, totals, common = description["clients"], description["totals"], description["global_test"]
    spread = clients["training_examples"]
    lines = [
        "Training examples a client: smallest {min:,}, a quarter below {quarter:,}, median {median:,}, "
        "a quarter above {three_quarters:,}, largest {max:,}".format(**spread),
        "In all: " + ", ".join(f"{totals[split]:,} {split}" for split in SPLITS),
        "Tokens an example: median {median:,}, 95 % within {percentile_95:,}, longest {max:,}".format(
            **description["tokens"]
        ),
    ]
    classes = description["classes"]
    if classes:
        named = [f"{name} {count:,}" for name, count in list(classes.items())[:MAX_SHOWN]]
        more = ", ..." if len(classes) > MAX_SHOWN else ""
        most = max(classes.values()) / sum(classes.values())
        lines.append(f"{len(classes)} classes: {', '.join(named)}{more}; always the most frequent: {100 * most:.1f} %")
    else:
        lines[-1] += f"; label tokens {description['label_tokens']:,}"
    preferences = description["preferences"]
    if preferences is not None and "pairs" in preferences:
        # A model that always took the longer answer would be right that often: what an accuracy has to beat.
        longer = 100 * preferences["chosen_longer"] / preferences["pairs"]
        lines.append(
            f"Tokens of an answer: median {preferences['chosen_tokens']:,} chosen, "
            f"{preferences['rejected_tokens']:,} rejected; in {longer:.1f} % of the pairs the chosen one is longer"
        )
    elif preferences is not None:
        lines.append(f"Answers: {preferences['desirable']:,} desirable, {preferences['undesirable']:,} undesirable")
    if common["test"]:
        lines.append(f"Global test: {common['test']:,} examples, for validation {common['validation']:,}")
    if clients["unseen_number"]:
        more = ", ..." if clients["unseen_number"] > len(clients["unseen"]) else ""
        names = ", ".join(clients["unseen"])
        lines.append(f"Held out of training: {clients['unseen_number']:,} clients ({names}{more})")
    if description["truncated"]:
        lines.append(f"Cut to data.max_tokens: {description['truncated']:,} examples")
    if description["spelt_out"]:
        lines.append(f"Control tokens spelt out, kept as text: {description['spelt_out']:,} examples")
    lines += [f"Dropped: {number:,} records, {reason}" for reason, number in description["dropped"].items()]
    return lines
