"""The readers by the name that task files call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fedloom.suites.items import Item
from fedloom.suites.readers import answers, choices, dialogues, finance, medicine, programs

# Given the records of each of a task's files, in the order in which it names them.
Reader = Callable[[Sequence[list[dict[str, Any]]]], Iterable[Item]]

READERS: dict[str, Reader] = {
    "aqua": answers.aqua,
    "arc": choices.arc,
    "bbh": answers.bbh,
    "crass": choices.crass,
    "drop": answers.drop,
    "fiqa": finance.fiqa,
    "gsm8k": answers.gsm8k,
    "harmful": dialogues.harmful,
    "hellaswag": choices.hellaswag,
    "humaneval": programs.humaneval,
    "ifeval": answers.ifeval,
    "instructions": dialogues.instructions,
    "mathematics": answers.mathematics,
    "mbpp": programs.mbpp,
    "medmcqa": medicine.medmcqa,
    "medqa": medicine.medqa,
    "mmlu": choices.mmlu,
    "nwgi": finance.nwgi,
    "phrasebank": finance.phrasebank,
    "piqa": choices.piqa,
    "pubmedqa": medicine.pubmedqa,
    "questions": dialogues.questions,
    "refusals": dialogues.refusals,
    "siqa": choices.siqa,
    "superni": answers.superni,
    "svamp": answers.svamp,
    "tfns": finance.tfns,
    "truthfulqa_mc1": choices.truthfulqa_mc1,
    "truthfulqa_mc2": choices.truthfulqa_mc2,
    "winogrande": choices.winogrande,
}
