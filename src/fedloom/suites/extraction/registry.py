"""The graders by the name that task files call them."""

from __future__ import annotations

from fedloom.suites.extraction.drop import grade_drop
from fedloom.suites.extraction.grader import Grader
from fedloom.suites.extraction.instructions.grading import grade_instructions, instruction_measures
from fedloom.suites.extraction.labels import grade_label, label_measures
from fedloom.suites.extraction.letters import grade_letter
from fedloom.suites.extraction.mathematics import grade_mathematics
from fedloom.suites.extraction.numbers import grade_number
from fedloom.suites.extraction.overlap import grade_overlap
from fedloom.suites.extraction.phrases import grade_phrase

GRADERS: dict[str, Grader] = {
    "number": Grader(grade_number, ("strict", "flexible")),
    "mathematics": Grader(grade_mathematics, ("accuracy", "equivalent")),
    "letter": Grader(grade_letter, ("accuracy",)),
    "phrase": Grader(grade_phrase, ("accuracy",)),
    "drop": Grader(grade_drop, ("f1", "exact_match")),
    "label": Grader(grade_label, ("accuracy",), label_measures, ("f1_macro", "f1_weighted", "f1_micro")),
    "overlap": Grader(grade_overlap, ("rouge_l", "exact_match"), packages=("rouge_score",)),
    "instructions": Grader(
        grade_instructions,
        ("prompt_strict", "prompt_loose"),
        instruction_measures,
        ("instruction_strict", "instruction_loose"),
        packages=("langdetect", "nltk"),
    ),
}
