"""Readers of medical multiple choice tasks; see `choices`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item

Records = Sequence[Mapping[str, Any]]
DECISIONS = ["yes", "no", "maybe"]


def medqa(files: Sequence[Records]) -> Iterator[Item]:
    """MedQA (arXiv 2009.13081), four options.

    Args:
        files: one.

    Yields:
        Items with question; their category is the step of the examination.
    """
    for place, record in enumerate(files[0]):
        if "sent1" in record:
            choices, gold = [record[f"ending{number}"] for number in range(4)], int(record["label"])
            question, step = record["sent1"], None
        else:
            choices, gold = list(record["options"].values()), list(record["options"]).index(record["answer_idx"])
            question, step = record["question"], record["meta_info"]
        yield Item(str(place), step, {"question": question, "choices": choices, "gold": [gold]})


def medmcqa(files: Sequence[Records]) -> Iterator[Item]:
    """MedMCQA (arXiv 2203.14371), the development split.

    Args:
        files: one.

    Yields:
        Items with question; their category is the subject.
    """
    # The authors count options from 1, the hub from 0.
    first = min(record["cop"] for record in files[0])
    for record in files[0]:
        choices = [record[f"op{letter}"] for letter in "abcd"]
        fields = {"question": record["question"], "choices": choices, "gold": [record["cop"] - first]}
        yield Item(record["id"], record["subject_name"], fields)


def pubmedqa(files: Sequence[Records]) -> Iterator[Item]:
    """PubMedQA (arXiv 1909.06146), the expert-labelled questions.

    Args:
        files: one.

    Yields:
        Items with question and abstract.
    """
    for record in files[0]:
        paragraphs = record["contexts"] if "contexts" in record else record["context"]["contexts"]
        fields = {
            "question": record["question"],
            "abstract": "\n".join(paragraphs),
            "choices": DECISIONS,
            "gold": [DECISIONS.index(record["final_decision"])],
        }
        yield Item(str(record["pmid"] if "pmid" in record else record["pubid"]), None, fields)
