"""Measures of a classification beside its accuracy, from counts of how often each class was taken for each."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def confusion_counts(classes: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each class was taken for each.

    Args:
        classes: [examples] int64, the true classes.
        predicted: [examples] int64, those found most likely.

    Returns:
        [classes, classes] int64, rows by true class; up to the highest class that occurs in either.
    """
    count = int(max(classes.max(), predicted.max())) + 1
    return np.bincount(classes * count + predicted, minlength=count * count).reshape(count, count)


def macro_f1(counts: NDArray[np.int64]) -> float:
    """The mean over classes of F1, the harmonic mean of precision and recall.

    Args:
        counts: from `confusion_counts`.

    Returns:
        Between 0 and 1. Classes that occur neither among the true nor among the predicted ones don't count, as in
        scikit-learn.
    """
    right, occurring = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    known = occurring > 0
    return float(np.mean(2 * right[known] / occurring[known]))


def matthews_correlation(counts: NDArray[np.int64]) -> float:
    """The Matthews correlation of true and predicted classes, for any number of classes.

    The multi-class form is R_K of Gorodkin (2004); of two classes it is their phi coefficient.

    Args:
        counts: from `confusion_counts`.

    Returns:
        Between -1 and 1; 0 where all true or all predicted classes are one and the same, as in scikit-learn.
    """
    total, right = int(counts.sum()), int(np.trace(counts))
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    spread = (total**2 - int(true @ true)) * (total**2 - int(predicted @ predicted))
    return (right * total - int(true @ predicted)) / math.sqrt(spread) if spread else 0.0
