"""Where a command's answers are judged: tasks of dialogues, after all their answers are there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedloom.errors import UserError
from fedloom.run_directory import write_atomically
from fedloom.suites.items import Outcome
from fedloom.suites.judge.config import JudgeConfig
from fedloom.suites.judge.judge import Judge, Told
from fedloom.suites.judging import compared, comparison_summary, judged
from fedloom.suites.kinds.dialogue import DialogueKind, DialogueTask
from fedloom.suites.outcomes import EVALUATIONS
from fedloom.suites.run import Examination

# All that was ever paid for in a run directory, whichever task and judge it was.
REPLIES = "judge.jsonl"


def open_judge(
    config: JudgeConfig | None, folder: Path, examinations: Sequence[Examination]
) -> AbstractContextManager[Judge | None]:
    """Open the judge that a command names, before a model is loaded.

    Args:
        config: of the command; None: there is no judge.
        folder: the run directory.
        examinations: what is evaluated.

    Returns:
        The judge, to be closed; None without one.

    Raises:
        UserError: where nothing is judged, or the prompts can't be read.
    """
    if config is None:
        return nullcontext()
    if not any(isinstance(examination.task, DialogueTask) for examination in examinations):
        raise UserError("--judge: none of the tasks has answers to judge", hint="`fedloom evaluate --list` shows tasks")
    return Judge(config, folder / EVALUATIONS / REPLIES)


def judge_answers(
    judge: Judge, folder: Path, examination: Examination, found: Mapping[str, Sequence[Outcome]], told: Told
) -> tuple[dict[str, list[Outcome]], dict[str, Any]]:
    """Have a task's answers judged, and those of two subjects compared where ratings are asked for.

    Beside the outcomes it writes `<subject>-judged.jsonl` and `comparison.jsonl`, with the judge's words.

    Args:
        judge: who is asked.
        folder: the run directory.
        examination: of a task of dialogues.
        found: outcomes by subject.
        told: is given how many verdicts of one kind there are, of how many.

    Returns:
        The graded outcomes by subject; and what else belongs into the task's entry in `evaluation.json`: judge, with
        what was spent, and comparison (the adapter's wins over the base).

    Raises:
        UserError: where the judge is out of order.
    """
    kind, task = examination.kind, examination.task
    assert isinstance(kind, DialogueKind)
    assert isinstance(task, DialogueTask)
    place = folder / EVALUATIONS / task.name
    graded = {}
    for name, outcomes in found.items():
        graded[name] = judged(kind, task, examination.items, outcomes, judge, told)
        _write_lines(place / f"{name}-judged.jsonl", [asdict(outcome) for outcome in graded[name]])
    more: dict[str, Any] = {}
    if task.judged == "rating" and "base" in found:
        pairs = compared(task, examination.items, found["adapter"], found["base"], judge, told)
        _write_lines(place / "comparison.jsonl", pairs)
        more["comparison"] = comparison_summary(pairs)
    return graded, {"judge": {**judge.description(), **asdict(judge.settle())}, **more}


def judge_line(judge: Judge, entries: Mapping[str, Any]) -> str:
    """What the judge has cost, for the terminal.

    Args:
        judge: who was asked.
        entries: as in `evaluation.json`, of the tasks that this command has evaluated.

    Returns:
        Replies that the results rest on, how many of them were asked for now, tokens, and money where prices are known.
    """
    spent = [entry["judge"] for entry in entries.values() if "judge" in entry]
    replies, read, written = (
        sum(one[name] for one in spent) for name in ("replies", "prompt_tokens", "completion_tokens")
    )
    costs = [one["cost"] for one in spent if one["cost"] is not None]
    money = f", cost {sum(costs):.4f}" if costs else ""
    return f"{replies} replies, {judge.paid_now} of them new; {read} + {written} tokens{money}"


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
