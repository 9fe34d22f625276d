"""Scores of many clients folded as they come: sixteen bytes of each stay in memory, and their example count."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedloom.evaluation.scoring import Scores
from fedloom.statistics import gini, quantiles, worst_decile

Result = dict[str, Any]
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
        self._losses = array("d")
        self._accuracies = array("d")
        self._examples = array("q")
        self._correct: np.ndarray | None = None
        self._same_examples = same_examples

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, scores: Scores) -> None:
        """Fold one set in.

        Args:
            scores: of the set's examples.
        """
        self._losses.append(scores.loss)
        self._accuracies.append(scores.accuracy)
        self._examples.append(len(scores.labels))
        if self._same_examples:
            correct = scores.correct.astype(np.float64)
            self._correct = correct if self._correct is None else self._correct + correct

    def mean(self) -> Result:
        """Mean loss and accuracy over sets, how they spread where there are several, and the number of examples."""
        block: Result = {"loss": float(np.mean(self._losses))}
        if self.exact_match:
            block["accuracy"] = float(np.mean(self._accuracies))
        if len(self) > 1:
            block |= _spread("loss", self._losses)
            if self.exact_match:
                block |= _spread("accuracy", self._accuracies)
        return block | {"examples": self._examples[0] if self._same_examples else sum(self._examples)}

    def single(self, place: int) -> Result:
        """Loss, accuracy and number of examples of one set, by its place in the order of adding."""
        block: Result = {"loss": self._losses[place]}
        if self.exact_match:
            block["accuracy"] = self._accuracies[place]
        return block | {"examples": self._examples[place]}

    def quantiles(self) -> Result:
        """How losses and accuracies spread over sets: for each, the values that so many of the sets do not exceed."""
        measures = {"loss": self._losses}
        if self.exact_match:
            measures["accuracy"] = self._accuracies
        return {measure: quantiles(values) for measure, values in measures.items()}

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


def _spread(measure: str, values: Sequence[float]) -> Result:
    """How unevenly sets fare: deviation, mean over the worst tenth, Gini coefficient (None where all are zero)."""
    return {
        f"{measure}_spread": float(np.std(values)),
        f"{measure}_worst_decile": worst_decile(values, higher_is_better=measure == "accuracy"),
        f"{measure}_gini": gini(values),
    }
