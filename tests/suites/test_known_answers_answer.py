"""Tasks that are answered with text, on their real files: right is worth 1, wrong 0, what says nothing is counted."""

from __future__ import annotations

import json

import pytest

from fedloom.errors import UserError
from fedloom.suites.catalogue import all_tasks
from fedloom.suites.kinds.answer import AnswerKind
from fedloom.suites.kinds.base import Options
from fedloom.suites.readers.finance import SENTIMENTS
from fedloom.suites.readers.registry import READERS
from fedloom.suites.results import summarise
from fedloom.suites.sources import Place, items_of

KIND = AnswerKind(Options())
# Records of files that are not among the real ones, in the form in which they are given out.
GIVEN = {
    "svamp": [
        {
            "ID": "chal-1",
            "Body": "Bob has 8.5 pens.",
            "Question": "He loses 2.5 . How many?",
            "Answer": 6.0,
            "Type": "x",
        },
        {"ID": "chal-2", "Body": "Ann eats 3 of 10 nuts", "Question": "What is left?", "Answer": 7.0, "Type": "y"},
    ],
    "nwgi": [
        {"news": "Profits double.", "label": "strong positive"},
        {"news": "Shares dip.", "label": "mildly negative"},
        {"news": "The boss resigns.", "label": "moderately negative"},
    ],
}
RIGHT = {
    "number": lambda fields: f"First 3 + 4 = 7, then 1,000 more.\n#### {fields['number']}",
    "mathematics": lambda fields: rf"It is \boxed{{1}}, no: $x = \boxed{{{fields['gold']}}}$.",
    "letter": lambda fields: f"(A) is not it, nor (E). The answer is ({fields['gold']}) then.",
    "phrase": lambda fields: f"We look at it. So the answer is {fields['gold']}.",
    "drop": lambda fields: "; ".join(reversed(fields["golds"][0])),
    "label": lambda fields: f"{fields['gold'].capitalize()}.",
    "overlap": lambda fields: fields["references"][0],
}
WRONG = {
    "number": lambda fields: f"It was {fields['number']} but is\n#### -77123",
    "mathematics": lambda fields: rf"$\boxed{{{fields['gold']}}}$, no: \boxed{{-77123}}",
    "letter": lambda fields: f"The answer is ({next(one for one in fields['letters'] if one != fields['gold'])}).",
    "phrase": lambda fields: f"{fields['gold']}? No, the answer is -77123.",
    "drop": lambda fields: "-77123 xyzzy",
    "label": lambda fields: next(one for one in fields["labels"] if one != fields["gold"]),
    "overlap": lambda fields: "xyzzy",
}
TASKS = [name for name, task in all_tasks().items() if task.kind == "answer"]


def items_at(name, shared, tmp_path):
    if name in GIVEN:
        file = tmp_path / all_tasks()[name].files[0]
        rows = GIVEN[name]
        file.write_text(json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows)))
        return items_of(all_tasks()[name], Place(tmp_path))
    return items_of(all_tasks()[name], Place(shared / "data"))


@pytest.mark.parametrize("name", [name for name in TASKS if all_tasks()[name].grader != "instructions"])
def test_right_wrong_and_no_answers(name, shared, tmp_path):
    task, items = all_tasks()[name], items_at(name, shared, tmp_path)
    items = items[:1000]
    for texts, score, flags in ((RIGHT, 1.0, {}), (WRONG, 0.0, {}), (None, 0.0, {"unparsable": len(items)})):
        outcomes = [
            KIND.grade(task, item, {"text": "" if texts is None else texts[task.grader](item.fields)}) for item in items
        ]
        result = summarise(task, KIND, outcomes)
        assert result["measures"] == dict.fromkeys(result["measures"], score)
        assert set(result["measures"]) == set(task.measures)
        assert result.get("flags", {}) == flags
        assert [outcome.key for outcome in outcomes] == [item.key for item in items]
        json.dumps([outcome.output for outcome in outcomes])


@pytest.mark.parametrize(
    ("name", "beginning", "end"),
    [
        ("bbh", "", "\nA: Let's think step by step.\n"),
        ("gsm8k", "Question: Natalia sold clips to 48 of her friends", "\nAnswer:"),
        (
            "phrasebank",
            "What is the sentiment of this news? Please choose an answer from {negative/neutral/positive}.",
            "",
        ),
        ("superni", "Definition: ", "\nOutput:"),
    ],
)
def test_prompts_are_those_of_the_authors(name, beginning, end, shared):
    task = all_tasks()[name]
    for item in items_of(task, Place(shared / "data"))[:20]:
        prompt = task.prompt_of(item)
        assert prompt.startswith(beginning)
        assert prompt.endswith(end)
        assert "\n\n\n" not in prompt


def test_solved_examples_of_bbh_are_its_task_s_and_end_as_answers_are_read(shared):
    task = all_tasks()["bbh"]
    for item in items_of(task, Place(shared / "data"))[:27]:
        *solved, asked = task.prompt_of(item).split("\n\nQ:")
        assert len(solved) == 4
        assert "canary" not in solved[0]
        assert asked.strip().startswith(item.fields["input"].split("\n")[0].strip())
        example = {**item.fields, "gold": solved[1].rpartition("the answer is ")[2].rstrip(".")}
        outcome = KIND.grade(task, type(item)(item.key, None, example), {"text": solved[1]})
        assert outcome.measures == {"accuracy": 1.0}


def test_five_solved_examples_of_gsm8k(shared):
    task = all_tasks()["gsm8k"]
    prompt = task.prompt_of(items_of(task, Place(shared / "data"))[0])
    assert prompt.count("Question:") == prompt.count("Answer:") == 6
    assert prompt.count("\n#### ") == 5


def test_what_a_task_s_file_may_say(tmp_path):
    values = all_tasks()["math"].model_dump()
    for key, value, message in (
        ("grader", "mathematic", "did you mean 'mathematics'"),
        ("measures", ["f1"], "not one of grader mathematics's"),
        ("max_new_tokens", 0, "greater than or equal to 1"),
        ("shots", 3, "shots"),
    ):
        with pytest.raises(ValueError, match=message):
            AnswerKind.task.model_validate({**values, key: value})


def test_a_file_of_another_kind_is_told(tmp_path):
    (tmp_path / "nwgi_test.jsonl").write_text('{"news": "Rain.", "label": "wet"}\n')
    with pytest.raises(UserError, match="strong, moderately and mildly negative or positive"):
        items_of(all_tasks()["nwgi"], Place(tmp_path))


@pytest.mark.parametrize(
    ("reader", "record", "fields"),
    [
        ("gsm8k", {"question": "q", "answer": "so\n#### 1,200"}, {"question": "q", "number": "1,200", "examples": []}),
        (
            "svamp",
            {"ID": "chal-1", "Body": "Ann eats 3", "Question": "Left?", "Answer": "7.0", "Type": "x"},
            {"question": "Ann eats 3. Left?", "number": "7"},
        ),
        (
            "aqua",
            {"question": "q", "options": ["A)1", "B)2"], "rationale": "r", "correct": "B"},
            {"question": "q", "options": ["1", "2"], "letters": "AB", "gold": "B"},
        ),
        (
            "ifeval",
            {
                "key": 7,
                "prompt": "p",
                "instruction_id_list": ["keywords:frequency"],
                "kwargs": [{"keyword": "x", "frequency": 2, "relation": "at least", "num_words": None}],
            },
            {
                "prompt": "p",
                "instructions": [
                    {
                        "name": "keywords:frequency",
                        "arguments": {"keyword": "x", "frequency": 2, "relation": "at least"},
                    }
                ],
            },
        ),
        ("tfns", {"text": "t", "label": 1}, {"text": "t", "labels": list(SENTIMENTS), "gold": "positive"}),
    ],
    ids=["gsm8k", "svamp", "aqua", "ifeval", "tfns"],
)
def test_records_as_the_hub_has_them(reader, record, fields):
    item = next(iter(READERS[reader]([[record]])))
    assert item.fields == fields
