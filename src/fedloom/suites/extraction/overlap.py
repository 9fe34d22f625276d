"""Answers that are compared with references word by word, as in Super-NaturalInstructions (arXiv 2204.07705)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedloom.suites.extraction.grader import Graded
from fedloom.suites.text_measures import normalised_words, rouge


def grade_overlap(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare with the references; the best counts.

    Args:
        fields: references, texts.
        text: an answer.

    Returns:
        rouge_l, with stemming, and exact_match of lower case words without punctuation, as the authors measure both.
    """
    references = fields["references"]
    exact = any(normalised_words(text) == normalised_words(reference) for reference in references)
    measures = {"rouge_l": rouge(text, references)["rouge_l"], "exact_match": float(exact)}
    return Graded(text.strip() or None, references, measures)
