"""The readers by the name that task files call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fedloom.suites.items import Item
from fedloom.suites.readers import answers, choices, dialogues, medicine

# Given the records of each of a task's files, in the order in which it names them.
Reader = Callable[[Sequence[list[dict[str, Any]]]], Iterable[Item]]

READERS: dict[str, Reader] = {
    "arc": choices.arc,
    "bbh": answers.bbh,
    "gsm8k": answers.gsm8k,
    "svamp": answers.svamp,
    "mathematics": answers.mathematics,
    "aqua": answers.aqua,
    "drop": answers.drop,
    "ifeval": answers.ifeval,
    "superni": answers.superni,
    "phrasebank": answers.phrasebank,
    "fiqa": answers.fiqa,
    "tfns": answers.tfns,
    "nwgi": answers.nwgi,
    "questions": dialogues.questions,
    "instructions": dialogues.instructions,
    "harmful": dialogues.harmful,
    "refusals": dialogues.refusals,
    "crass": choices.crass,
    "hellaswag": choices.hellaswag,
    "medmcqa": medicine.medmcqa,
    "medqa": medicine.medqa,
    "mmlu": choices.mmlu,
    "piqa": choices.piqa,
    "pubmedqa": medicine.pubmedqa,
    "siqa": choices.siqa,
    "truthfulqa_mc1": choices.truthfulqa_mc1,
    "truthfulqa_mc2": choices.truthfulqa_mc2,
    "winogrande": choices.winogrande,
}
