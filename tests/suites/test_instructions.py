"""IFEval's instructions: a text that follows and one that does not, and agreement with the authors' program."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from fedloom.suites.catalogue import all_tasks
from fedloom.suites.extraction.instructions.checks import CHECKS, follows
from fedloom.suites.extraction.instructions.grading import grade_instructions, loosened
from fedloom.suites.extraction.instructions.words import count_sentences, words_of
from fedloom.suites.kinds.answer import AnswerKind
from fedloom.suites.kinds.base import Options
from fedloom.suites.results import summarise
from fedloom.suites.sources import Place, items_of

ENGLISH = "This is a plain sentence about the weather in the north of the country."
# Name, arguments, a text that follows the instruction, one that does not.
CASES = [
    ("keywords:existence", {"keywords": ["rain", "sun"]}, "Rain and sunny days", "Rain alone"),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "at least"}, "Go, going", "Go"),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "less than"}, "Go", "Go, going"),
    ("keywords:forbidden_words", {"forbidden_words": ["ran"]}, "It rang.", "It Ran."),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, "Qq", "Q"),
    ("language:response_language", {"language": "de"}, "Das ist ein ganz normaler deutscher Satz.", ENGLISH),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "One. Two.",
        "Why? So. Now!",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.\n***", "One.\n***\n***\nTwo."),
    ("length_constraints:number_words", {"num_words": 4, "relation": "at least"}, "It's one more", "Only three words"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        'One.\n\n"Then, two.',
        "Then one.\n\nTwo.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. More", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\np.p.s more", "Bye.\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n** two"),
    ("detectable_format:constrained_response", {}, "I say: My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and *two*", "*one* and **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "PART", "num_sections": 2},
        "PART 1 a PART 2 b",
        "PART 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Weather>>\nSun", "<< >>\nSun"),
    ("combination:two_responses", {}, "Yes ****** No", "Yes ****** Yes"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why? "}, "why? Because.", "Because."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"So it was. THE END."', "The end. Or not."),
    ("startend:quotation", {}, ' "Quoted." ', '"Not quite'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG dog",
        "A dog",
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), ENGLISH),
    ("punctuation:no_comma", {}, "No pause here", "One, two"),
]


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES, ids=range(len(CASES)))
def test_one_text_follows_and_one_does_not(name, arguments, right, wrong):
    assert follows(right, name, arguments)
    assert not follows(wrong, name, arguments)
    assert not follows(" \n", name, arguments)


def test_all_instructions_have_a_case():
    assert {name for name, *_ in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


def test_loose_measures_forgive_lines_around_and_asterisks():
    fields = {
        "instructions": [
            {"name": "startend:quotation", "arguments": {}},
            {"name": "punctuation:no_comma", "arguments": {}},
        ]
    }
    graded = grade_instructions(fields, 'Sure, here it is:\n"No pause"')
    assert graded.measures == {"prompt_strict": 0.0, "prompt_loose": 1.0}
    assert graded.answer == {"strict": [False, False], "loose": [True, True]}
    assert loosened("*a*\nb\nc") == ["*a*\nb\nc", "b\nc", "*a*\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert grade_instructions(fields, "").answer is None


def test_sentences_and_words():
    assert count_sentences("Dr. Smith paid $3.50. Did Mr. Jones, e.g., pay? No!") == 3
    assert words_of("I'm HERE, Bob. BYE.") == ["I", "'m", "HERE", ",", "Bob", ".", "BYE", "."]


def test_real_prompts_are_counted_by_prompt_and_by_instruction(shared):
    task = all_tasks()["ifeval"]
    kind, items = AnswerKind(Options()), items_of(task, Place(shared / "data"))
    empty = summarise(task, kind, [kind.grade(task, item, {"text": ""}) for item in items])
    assert empty["measures"] == dict.fromkeys(task.measures, 0.0)
    assert empty["flags"] == {"unparsable": 541}
    only = [item for item in items if [one["name"] for one in item.fields["instructions"]] == ["punctuation:no_comma"]]
    right = [kind.grade(task, item, {"text": "No pause"}) for item in only]
    others = [kind.grade(task, item, {"text": "One, two"}) for item in only]
    assert len(only) == 16
    assert summarise(task, kind, right)["measures"] == dict.fromkeys(task.measures, 1.0)
    assert summarise(task, kind, others)["measures"] == dict.fromkeys(task.measures, 0.0)


@pytest.fixture
def authors(monkeypatch):
    """The authors' program as lm-evaluation-harness has it, with our sentences and words: theirs need a download."""
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("lm_eval is not installed")
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk, "download", lambda *_: True)
    if importlib.util.find_spec("immutabledict") is None:
        # Of which the program uses no more than this.
        stand_in = type(sys)("immutabledict")
        stand_in.immutabledict = dict
        monkeypatch.setitem(sys.modules, "immutabledict", stand_in)
    folder = Path(package.origin).parent / "tasks" / "ifeval"
    loaded = {}
    for name in ("instructions_util", "instructions", "instructions_registry", "utils"):
        full = f"lm_eval.tasks.ifeval.{name}"
        spec = importlib.util.spec_from_file_location(full, folder / f"{name}.py")
        loaded[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, full, loaded[name])
        if "lm_eval.tasks.ifeval" not in sys.modules:
            for parent in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
                monkeypatch.setitem(sys.modules, parent, type(sys)(parent))
        setattr(sys.modules["lm_eval.tasks.ifeval"], name, loaded[name])
        spec.loader.exec_module(loaded[name])
    monkeypatch.setattr(loaded["instructions_util"], "count_sentences", count_sentences)
    monkeypatch.setattr(nltk, "word_tokenize", words_of)
    return loaded["utils"]


def test_the_authors_program_finds_the_same(authors, shared):
    import langdetect

    langdetect.DetectorFactory.seed = 0
    items = items_of(all_tasks()["ifeval"], Place(shared / "data"))[::3]
    found = []
    for number, item in enumerate(items):
        instructions = item.fields["instructions"]
        # Right for some instruction, or made of several, and with lines around.
        texts = [CASES[number % len(CASES)][2], "\n\n".join(["Sure:", *(case[2] for case in CASES[number % 7 :: 7])])]
        texts += [f"{item.fields['prompt']}\n\n* one\n- two\n\n***\n\n<<T>> [a] [b]\n\nP.S. *x* **y**"]
        for text in texts:
            theirs = authors.process_results(
                {
                    "key": item.key,
                    "prompt": item.fields["prompt"],
                    "instruction_id_list": [one["name"] for one in instructions],
                    "kwargs": [one["arguments"] for one in instructions],
                },
                [text],
            )
            graded = grade_instructions(item.fields, text)
            assert graded.answer == {
                "strict": theirs["inst_level_strict_acc"],
                "loose": theirs["inst_level_loose_acc"],
            }, json.dumps([instructions, text])
            found += graded.answer["loose"]
    assert 0.2 < sum(found) / len(found) < 0.8
