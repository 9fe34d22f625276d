"""Scores of many clients folded as they come: of each, eight bytes a measure and its example count stay in memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedloom.evaluation.class_measures import confusion_counts, macro_f1, matthews_correlation
from fedloom.evaluation.scoring import Scores
from fedloom.statistics import gini, quantiles, worst_decile

Result = dict[str, Any]
# All that a block of a result may hold; the last two only of classification.
MEASURES = ("loss", "accuracy", "macro_f1", "matthews")
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
        self._values: dict[str, array[float]] = {}
        self._examples = array("q")
        self._correct: np.ndarray | None = None
        self._same_examples = same_examples

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, scores: Scores) -> None:
        """Fold one set in.

        Args:
            scores: of the set's examples.
        """
        for measure, value in self._measured(scores).items():
            self._values.setdefault(measure, array("d")).append(value)
        self._examples.append(len(scores.labels))
        if self._same_examples:
            correct = scores.correct.astype(np.float64)
            self._correct = correct if self._correct is None else self._correct + correct

    def mean(self) -> Result:
        """The mean of every measure over sets, how they spread where there are several, and the number of examples."""
        block: Result = {measure: float(np.mean(values)) for measure, values in self._values.items()}
        if len(self) > 1:
            for measure, values in self._values.items():
                block |= _spread(measure, values)
        return block | {"examples": self._examples[0] if self._same_examples else sum(self._examples)}

    def single(self, place: int) -> Result:
        """The measures and number of examples of one set, by its place in the order of adding."""
        block: Result = {measure: values[place] for measure, values in self._values.items()}
        return block | {"examples": self._examples[place]}

    def quantiles(self) -> Result:
        """How measures spread over sets: for each, the values that so many of the sets do not exceed."""
        return {measure: quantiles(values) for measure, values in self._values.items()}

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

    def _measured(self, scores: Scores) -> dict[str, float]:
        found = {"loss": scores.loss}
        if self.exact_match:
            found["accuracy"] = scores.accuracy
        if scores.classes is not None and scores.predicted is not None:
            counts = confusion_counts(scores.classes, scores.predicted)
            found |= {"macro_f1": macro_f1(counts), "matthews": matthews_correlation(counts)}
        return found


def _spread(measure: str, values: Sequence[float]) -> Result:
    """How unevenly sets fare: deviation, mean over the worst tenth, Gini coefficient (None where all are zero)."""
    spread: Result = {
        f"{measure}_spread": float(np.std(values)),
        f"{measure}_worst_decile": worst_decile(values, higher_is_better=measure != "loss"),
    }
    # A Matthews correlation may be negative, and a Gini coefficient is of shares.
    return spread if measure == "matthews" else spread | {f"{measure}_gini": gini(values)}
