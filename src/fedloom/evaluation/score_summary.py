"""Scores of many clients folded as they come: of each, eight bytes a measure and its example count stay in memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedloom.evaluation.class_measures import confusion_counts, macro_f1, matthews_correlation
from fedloom.evaluation.preference_scoring import PreferenceScores
from fedloom.evaluation.scoring import Scores
from fedloom.statistics import gini, quantiles, worst_decile

Result = dict[str, Any]
PREFERENCE_MEASURES = ("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward", "kl")
# All that a block of a result may hold; macro_f1 and matthews only of classification.
MEASURES = ("loss", "accuracy", "macro_f1", "matthews", *PREFERENCE_MEASURES)
# Those of which less is better.
COSTS = ("loss", "kl")
# What sets without desirable, or without undesirable, single responses lack.
SOMETIMES = ("reward_margin", "chosen_reward", "rejected_reward")
# A Gini coefficient is of shares: none of what may be negative.
SIGNED = ("matthews", *SOMETIMES)
# Above so many clients nobody reads them one by one, and every event and checkpoint would carry them.
LISTED_CLIENTS = 1000


class ScoreSummary:
    """Means over example sets, each of which counts alike.

    Args:
        exact_match: whether accuracy says something about these examples.
        same_examples: whether all sets are the same examples (under different adapters), so that the share of right
            answers can be told example by example.
    """

    def __init__(self, exact_match: bool, same_examples: bool = False) -> None:
        self.exact_match = exact_match
        # NaN for a set that lacks one of `SOMETIMES`.
        self._values: dict[str, array[float]] = {}
        self._examples = array("q")
        self._correct: np.ndarray | None = None
        self._same_examples = same_examples

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, scores: Scores | PreferenceScores) -> None:
        """Fold one set in.

        Args:
            scores: of the set's examples.
        """
        found = self._measured(scores)
        for measure in found.keys() - self._values.keys():
            self._values[measure] = array("d", [math.nan] * len(self))
        for measure, values in self._values.items():
            values.append(found.get(measure, math.nan))
        self._examples.append(len(scores))
        if self._same_examples and isinstance(scores, Scores):
            correct = scores.correct.astype(np.float64)
            self._correct = correct if self._correct is None else self._correct + correct

    def mean(self) -> Result:
        """The mean of every measure over sets, how they spread where there are several, and the number of examples."""
        measured = self._measures()
        block: Result = {measure: float(np.mean(values)) for measure, values in measured.items()}
        if len(self) > 1:
            for measure, values in measured.items():
                block |= _spread(measure, values)
        return block | {"examples": self._examples[0] if self._same_examples else sum(self._examples)}

    def single(self, place: int) -> Result:
        """The measures and number of examples of one set, by its place in the order of adding."""
        block: Result = {
            measure: values[place] for measure, values in self._values.items() if not _lacks(measure, values[place])
        }
        return block | {"examples": self._examples[place]}

    def quantiles(self) -> Result:
        """How measures spread over sets: for each, the values that so many of the sets do not exceed."""
        return {measure: quantiles(values) for measure, values in self._measures().items()}

    def by_category(self, categories: Sequence[str]) -> Result:
        """Accuracy by category.

        Args:
            categories: of each of the examples, which are the same in all sets.

        Returns:
            Category -> accuracy and number of examples.
        """
        assert self._correct is not None
        correct, names = self._correct / len(self), np.asarray(categories)
        return {
            str(name): {"accuracy": float(correct[names == name].mean()), "examples": int((names == name).sum())}
            for name in sorted(set(categories))
        }

    def _measures(self) -> dict[str, Sequence[float]]:
        """The values of each measure, of the sets that have it, in the order of `MEASURES`."""
        return {
            measure: [value for value in self._values[measure] if not _lacks(measure, value)]
            for measure in MEASURES
            if measure in self._values
        }

    def _measured(self, scores: Scores | PreferenceScores) -> dict[str, float]:
        if isinstance(scores, PreferenceScores):
            return scores.measures()
        found = {"loss": scores.loss}
        if self.exact_match:
            found["accuracy"] = scores.accuracy
        if scores.classes is not None and scores.predicted is not None:
            counts = confusion_counts(scores.classes, scores.predicted)
            found |= {"macro_f1": macro_f1(counts), "matthews": matthews_correlation(counts)}
        return found


def _lacks(measure: str, value: float) -> bool:
    # Of other measures NaN says that the model has diverged.
    return measure in SOMETIMES and math.isnan(value)


def _spread(measure: str, values: Sequence[float]) -> Result:
    """How unevenly sets fare: deviation, mean over the worst tenth, Gini coefficient (None where all are zero)."""
    spread: Result = {
        f"{measure}_spread": float(np.std(values)),
        f"{measure}_worst_decile": worst_decile(values, higher_is_better=measure not in COSTS),
    }
    return spread if measure in SIGNED else spread | {f"{measure}_gini": gini(values)}
