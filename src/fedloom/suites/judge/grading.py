"""What is asked of a judge about conversations, and what its verdicts come to. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedloom.suites.judge.judge import Judgement
from fedloom.suites.judge.prompts import Role
from fedloom.suites.judge.verdicts import Value

Standing = Literal["win", "tie", "loss"]


@dataclass(frozen=True)
class Dialogue:
    """A conversation that is judged.

    Args:
        questions: of the user.
        answers: of the model, one to each question.
        references: an answer to each question to compare with; None where there are none.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    references: tuple[str, ...] | None = None


def ratings(dialogue: Dialogue) -> list[Judgement]:
    """A rating of each answer, from 1 to 10 (single answer grading, arXiv 2306.05685, section 3.1).

    Args:
        dialogue: of one or two turns.

    Returns:
        A judgement for each turn; that of the second sees the first.
    """
    return [_judgement("single", dialogue, (dialogue.answers,), turn) for turn in range(1, len(dialogue.answers) + 1)]


def comparisons(dialogue: Dialogue, other: Dialogue) -> list[Judgement]:
    """Which of two models answers better, asked twice for each turn: once with each of them in the place of A.

    Args:
        dialogue: of the model whose wins are counted.
        other: of the other model, with the same questions.

    Returns:
        Two judgements for each turn: as A, as B.
    """
    turns = range(1, len(dialogue.answers) + 1)
    sides = (dialogue.answers, other.answers)
    return [
        _judgement("pairwise", dialogue, answers, turn) for turn in turns for answers in (sides, (sides[1], sides[0]))
    ]


def classification(kind: str, dialogue: Dialogue) -> Judgement:
    """A class of the first answer.

    Args:
        kind: refusal or harm.
        dialogue: of one turn.

    Returns:
        The judgement.
    """
    return Judgement(Role(kind), dialogue.questions[:1], (dialogue.answers[:1],))


def standing_of(as_a: Value | None, as_b: Value | None) -> Standing | None:
    """A win or a loss only where both orders agree (arXiv 2306.05685, section 3.4); else a tie.

    Args:
        as_a: the verdict "A", "B" or "C" with the model in the place of A.
        as_b: with the model in the place of B.

    Returns:
        For the model; None where one of them is unjudged.
    """
    if as_a is None or as_b is None:
        return None
    if (as_a, as_b) == ("A", "B"):
        return "win"
    return "loss" if (as_a, as_b) == ("B", "A") else "tie"


def shares(standings: Sequence[Standing | None]) -> Mapping[str, float]:
    """How often a model wins.

    Args:
        standings: of every comparison; those unjudged are left out of the shares and counted.

    Returns:
        n, unjudged, win, tie and loss (shares of n, absent where n is 0), and win_rate: wins and half the ties.
    """
    judged = [standing for standing in standings if standing is not None]
    counts = {"n": float(len(judged)), "unjudged": float(len(standings) - len(judged))}
    if not judged:
        return counts
    found = {name: judged.count(name) / len(judged) for name in ("win", "tie", "loss")}
    return {**counts, **found, "win_rate": found["win"] + 0.5 * found["tie"]}


def _judgement(kind: str, dialogue: Dialogue, answers: tuple[tuple[str, ...], ...], turn: int) -> Judgement:
    references = None if dialogue.references is None else dialogue.references[:turn]
    role = Role(kind, references is not None, turn)
    return Judgement(role, dialogue.questions[:turn], tuple(texts[:turn] for texts in answers), references)
