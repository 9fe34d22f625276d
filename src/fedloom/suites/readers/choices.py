"""Readers of multiple choice tasks: items have the fields choices and gold, and what their prompts name.

Each takes the records of a task's files, as they are published: those of the repository's own data sets, and those of
the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item
from fedloom.suites.readers.instruction_form import number_of, parse_instruction

Records = Sequence[Mapping[str, Any]]


def arc(files: Sequence[Records]) -> Iterator[Item]:
    """ARC (arXiv 1803.05457) and OpenBookQA (arXiv 1809.02789): the test split.

    Args:
        files: one.

    Yields:
        Items with question.
    """
    for place, record in _tested(files[0]):
        if "instruction" in record:
            yield _from_instruction(record, "Answer")
        else:
            gold = record["choices"]["label"].index(record["answerKey"].strip())
            question = record.get("question", record.get("question_stem"))
            yield _item(record.get("id", place), record["choices"]["text"], gold, question=question)


def piqa(files: Sequence[Records]) -> Iterator[Item]:
    """PIQA (arXiv 1911.11641).

    Args:
        files: one.

    Yields:
        Items with question.
    """
    for place, record in _tested(files[0]):
        if "instruction" in record:
            yield _from_instruction(record, "Solution")
        else:
            yield _item(place, [record["sol1"], record["sol2"]], int(record["label"]), question=record["goal"])


def siqa(files: Sequence[Records]) -> Iterator[Item]:
    """Social IQa (arXiv 1904.09728).

    Args:
        files: one.

    Yields:
        Items with question, which begins with the context.
    """
    for place, record in _tested(files[0]):
        if "instruction" in record:
            yield _from_instruction(record, "Answer")
        else:
            choices = [record[f"answer{letter}"] for letter in "ABC"]
            yield _item(place, choices, int(record["label"]) - 1, question=f"{record['context']} {record['question']}")


def winogrande(files: Sequence[Records]) -> Iterator[Item]:
    """WinoGrande (arXiv 1907.10641).

    Args:
        files: one.

    Yields:
        Items with before and after, what surrounds the blank.
    """
    for place, record in _tested(files[0]):
        if "instruction" in record:
            sentence, choices = parse_instruction(record["instruction"], "Option")
            key, gold = record["id"], number_of(record["answer"])
        else:
            sentence, choices = record["sentence"], [record["option1"], record["option2"]]
            key, gold = place, int(record["answer"]) - 1
        blank = sentence.index("_")
        yield _item(key, choices, gold, before=sentence[:blank], after=sentence[blank + 1 :].strip())


def hellaswag(files: Sequence[Records]) -> Iterator[Item]:
    """HellaSwag (arXiv 1905.07830), its text prepared as lm-evaluation-harness does.

    Args:
        files: one.

    Yields:
        Items with context.
    """
    for place, record in _tested(files[0]):
        context = f"{record['ctx_a']} {record['ctx_b'].capitalize()}" if "ctx_a" in record else record["ctx"]
        yield _item(
            record.get("id", record.get("ind", place)),
            [_without_markup(ending) for ending in record["endings"]],
            int(record["label"]),
            context=_without_markup(f"{record['activity_label']}: {context}"),
        )


def mmlu(files: Sequence[Records]) -> Iterator[Item]:
    """MMLU (arXiv 2009.03300).

    Args:
        files: the test questions, and those that are shown with their answers, five a subject.

    Yields:
        Items with question, subject (in words) and shots, the shown ones of its subject: question, choices and letter.
    """
    shown: dict[str, list[dict[str, Any]]] = {}
    for record in files[1]:
        shot = {"question": record["question"].strip(), "choices": record["choices"], "letter": "ABCD"[_letter(record)]}
        shown.setdefault(record["subject"], []).append(shot)
    met: dict[str, int] = {}
    for record in files[0]:
        subject = record["subject"]
        number = met[subject] = met.get(subject, -1) + 1
        yield _item(
            f"{subject}/{number}",
            record["choices"],
            _letter(record),
            subject,
            question=record["question"].strip(),
            subject=subject.replace("_", " "),
            shots=shown.get(subject, []),
        )


def truthfulqa_mc1(files: Sequence[Records]) -> Iterator[Item]:
    """TruthfulQA (arXiv 2109.07958), one right answer: the best against the incorrect ones.

    Args:
        files: one.

    Yields:
        Items with question; the right answer comes first.
    """
    for place, record in enumerate(files[0]):
        if "mc1_targets" in record:
            yield _targets(place, record, "mc1_targets")
        else:
            yield _truthful(place, record, [record["best_answer"]])


def truthfulqa_mc2(files: Sequence[Records]) -> Iterator[Item]:
    """TruthfulQA (arXiv 2109.07958), several right answers: all correct ones against all incorrect ones.

    Args:
        files: one.

    Yields:
        Items with question.
    """
    for place, record in enumerate(files[0]):
        if "mc2_targets" in record:
            yield _targets(place, record, "mc2_targets")
        else:
            yield _truthful(place, record, record["correct_answers"])


def crass(files: Sequence[Records]) -> Iterator[Item]:
    """CRASS (arXiv 2112.11941): what would have been.

    Args:
        files: one, with the columns of the authors' CRASS_FTM_main_data_set.csv.

    Yields:
        Items with premise and question; the right answer comes first.
    """
    for place, record in enumerate(files[0]):
        names = ("CorrectAnswer", "Answer1", "Answer2", "PossibleAnswer3")
        choices = [record[name].strip() for name in names if (record.get(name) or "").strip()]
        yield _item(place, choices, 0, premise=record["Premise"].strip(), question=record["QCC"].strip())


def _tested(records: Records) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Records that belong to the test split, or do not say; with their places."""
    return ((place, record) for place, record in enumerate(records) if record.get("split", "test") != "train")


def _from_instruction(record: Mapping[str, Any], word: str) -> Item:
    question, choices = parse_instruction(record["instruction"], word)
    return _item(record["id"], choices, number_of(record["answer"]), question=question)


def _targets(place: int, record: Mapping[str, Any], name: str) -> Item:
    targets = record[name]
    gold = [at for at, label in enumerate(targets["labels"]) if label == 1]
    return _item(place, targets["choices"], gold, question=record["question"])


def _truthful(place: int, record: Mapping[str, Any], right: Sequence[str]) -> Item:
    # Of a few questions an incorrect answer is listed among the correct ones, too.
    wrong = [answer for answer in record["incorrect_answers"] if answer not in record["correct_answers"]]
    gold = list(range(len(right)))
    return _item(place, [*right, *wrong], gold, record["category"], question=record["question"])


def _letter(record: Mapping[str, Any]) -> int:
    """The place of the right answer: the hub has it as a number."""
    answer = record["answer"]
    return answer if isinstance(answer, int) else "ABCD".index(answer)


def _without_markup(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _item(
    key: int | str, choices: Sequence[str], gold: int | list[int], category: str | None = None, **fields: Any
) -> Item:
    places = [gold] if isinstance(gold, int) else gold
    if len(choices) < 2 or not places or not all(0 <= place < len(choices) for place in places):
        raise ValueError(f"example {key}: its right answer is none of its {len(choices)} choices")
    return Item(str(key), category, {"choices": list(choices), "gold": places, **fields})
