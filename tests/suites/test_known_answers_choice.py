"""Choices with the real files: the right answer scores 1, a wrong one 0, and every record is read."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.data.readers import read_file
from fedloom.suites.catalogue import all_tasks
from fedloom.suites.items import Item
from fedloom.suites.kinds.base import Options
from fedloom.suites.kinds.choice import ChoiceKind, ChoiceTask, pairs_of
from fedloom.suites.readers.instruction_form import number_of, parse_instruction
from fedloom.suites.readers.registry import READERS
from fedloom.suites.sources import Place, items_of, spread

TASKS = [task for task in all_tasks().values() if isinstance(task, ChoiceTask)]
# As the data's own description counts them.
SIZES = {
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "hellaswag": 2000,
    "medmcqa": 4183,
    "medqa": 1273,
    "mmlu": 2850,
    "mmlu_medical": 300,
    "openbookqa": 500,
    "piqa": 1838,
    "pubmedqa": 1000,
    "siqa": 1954,
    "truthfulqa_mc1": 817,
    "truthfulqa_mc2": 817,
    "winogrande": 1267,
}
INSTRUCTIONS = {
    "arc_challenge": "Answer",
    "arc_easy": "Answer",
    "openbookqa": "Answer",
    "piqa_test": "Solution",
    "siqa_test": "Answer",
    "winogrande_test": "Option",
}
KIND = ChoiceKind(Options())


def likelihoods(item: Item, right: bool) -> dict[str, list[float]]:
    """Of a model that is certain: of the right choices, or of the others."""
    gold = set(item.fields["gold"])
    return {"log_likelihoods": [-1.0 if (at in gold) == right else -1e4 for at in range(len(item.fields["choices"]))]}


@pytest.mark.parametrize("name", SIZES)
def test_right_answers_score_one_and_wrong_ones_zero(name: str, shared: Path) -> None:
    task = all_tasks()[name]
    items = items_of(task, Place(shared / "data"))
    assert len(items) == SIZES[name]
    for item in items:
        assert set(KIND.grade(task, item, likelihoods(item, right=True)).measures.values()) == {1.0}
        assert set(KIND.grade(task, item, likelihoods(item, right=False)).measures.values()) == {0.0}
    pairs = pairs_of(task, items[0])
    assert len({continuation for _, continuation in pairs} | {context for context, _ in pairs}) > len(pairs)


def test_every_choice_task_has_a_known_answer() -> None:
    assert {task.name for task in TASKS} == {*SIZES, "crass"}


@pytest.mark.parametrize(("name", "word"), INSTRUCTIONS.items())
def test_every_instruction_is_taken_apart(name: str, word: str, shared: Path) -> None:
    for record in read_file(shared / f"data/eval/{name}.jsonl.gz"):
        instruction, answer = record.values["instruction"], record.values["answer"]
        question, choices = parse_instruction(instruction, word)
        announced = instruction.rpartition("Answer format: ")[2].split("/")
        assert [f"{word.lower()}{number}" for number in range(1, len(choices) + 1)] == announced
        assert question or name == "piqa_test"
        assert 0 <= number_of(answer) < len(choices)
        # Nothing is lost but the words around.
        words = instruction.split(": ", 1)[1].rpartition("Answer format: ")[0].split()
        assert [*question.split(), *(w for c in choices for w in c.split())] == [
            w for w in words if not (w.startswith(word) and w.endswith(":") and w[len(word) : -1].isdigit())
        ]


def test_the_groups_of_mmlu_are_its_subjects(shared: Path) -> None:
    task = all_tasks()["mmlu"]
    subjects = {record.values["subject"] for record in read_file(shared / "data/eval/mmlu_dev.jsonl.gz")}
    assert Counter(subjects) == Counter(name for names in task.groups.values() for name in names)
    assert {name: len(names) for name, names in task.groups.items()} == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }


def test_crass_is_read_from_the_authors_file(tmp_path: Path) -> None:
    header = ["PCTID", "BatchID", "Premise", "QCC", "CorrectAnswer", "Answer1", "Answer2", "PossibleAnswer3"]
    rows = [
        [
            1,
            1,
            "A man falls.",
            "What would have happened if he had not?",
            "He stands.",
            "He lies.",
            "That is not possible.",
        ],
        [2, 1, "It rains.", "What would have happened if it had not?", "Dry.", "Wet.", "Cold.", "Warm."],
    ]
    with (tmp_path / "CRASS_FTM_main_data_set.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([header, [*rows[0], ""], rows[1]])
    task = all_tasks()["crass"]
    first, second = sorted(items_of(task, Place(tmp_path)), key=lambda item: item.key)
    assert pairs_of(task, first)[0] == (
        "A man falls.\nWhat would have happened if he had not?\nAnswer:",
        " He stands.",
    )
    assert (len(first.fields["choices"]), len(second.fields["choices"])) == (3, 4)
    assert KIND.grade(task, second, likelihoods(second, right=True)).measures["accuracy"] == 1.0


# Records as the hub has them -> choices and the place of the right ones.
HUB = {
    "openbookqa": (
        {"id": "7", "question_stem": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
        ["a", "b"],
        [1],
    ),
    "piqa": ({"goal": "Q", "sol1": "a", "sol2": "b", "label": 1}, ["a", "b"], [1]),
    "siqa": (
        {"context": "C", "question": "Q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"},
        ["a", "b", "c"],
        [2],
    ),
    "winogrande": (
        {"sentence": "Here _ is.", "option1": "a", "option2": "b", "answer": "2"},
        ["a", "b"],
        [1],
    ),
    "truthfulqa_mc1": (
        {"question": "Q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}},
        ["a", "b"],
        [0],
    ),
    "truthfulqa_mc2": (
        {"question": "Q", "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}},
        ["a", "b", "c"],
        [0, 1],
    ),
    "medqa": (
        {"sent1": "Q", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d", "label": 3},
        ["a", "b", "c", "d"],
        [3],
    ),
    "pubmedqa": (
        {"pubid": 9, "question": "Q", "context": {"contexts": ["x", "y"]}, "final_decision": "maybe"},
        ["yes", "no", "maybe"],
        [2],
    ),
}


@pytest.mark.parametrize("name", HUB)
def test_records_of_the_hub_are_read(name: str) -> None:
    record, choices, gold = HUB[name]
    task = all_tasks()[name]
    (item,) = READERS[task.reader]([[record]])
    assert (item.fields["choices"], item.fields["gold"]) == (choices, gold)
    assert len(pairs_of(task, item)) == len(choices)


def test_medmcqa_counts_from_zero_on_the_hub() -> None:
    rows = [{"id": str(cop), "question": "Q", **dict.fromkeys(["opa", "opb", "opc", "opd"], "x")} for cop in range(4)]
    for first in (0, 1):
        records = [{**row, "subject_name": "S", "cop": int(row["id"]) + first} for row in rows]
        assert [item.fields["gold"] for item in READERS["medmcqa"]([records])] == [[0], [1], [2], [3]]


def test_probability_mass_is_that_of_truthfulqa() -> None:
    # Three choices of probabilities 0.1 and 0.2 (right) and 0.3: (0.1 + 0.2) / 0.6.
    item = Item("0", None, {"choices": ["a", "b", "c"], "gold": [0, 1]})
    output = {"log_likelihoods": [math.log(p) for p in (0.1, 0.2, 0.3)]}
    outcome = KIND.grade(all_tasks()["truthfulqa_mc2"], item, output)
    assert outcome.measures == {"probability_mass": pytest.approx(0.5)}


def test_a_longer_choice_wins_when_normalised() -> None:
    item = Item("0", None, {"choices": ["ab", "abcdefgh"], "gold": [1]})
    outcome = KIND.grade(all_tasks()["arc_easy"], item, {"log_likelihoods": [-4.0, -8.0]})
    assert outcome.measures == {"accuracy": 0.0, "accuracy_normalised": 1.0}


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_every_beginning_is_spread_over_categories(categories: list[str]) -> None:
    items = [Item(str(at), category, {}) for at, category in enumerate(categories)]
    ordered = spread(items, "task")
    assert sorted(item.key for item in ordered) == sorted(item.key for item in items)
    sizes = Counter(categories)
    for length in range(len(ordered)):
        counts = Counter(item.category for item in ordered[:length])
        # Nobody is ahead by more than one of who still has items left.
        left = [counts[category] for category, size in sizes.items() if counts[category] < size]
        assert max(counts.values(), default=0) <= min(left, default=len(items)) + 1
