"""Sentences, words and languages, as IFEval's authors count them: with NLTK and langdetect."""

from __future__ import annotations

from functools import cache
from typing import Any

from fedloom.data.readers import optional_package

# The authors use NLTK's trained model of English sentences, a file that has to be fetched. Punkt (Kiss and Strunk 2006)
# without training, told these abbreviations, parts ordinary English alike.
ABBREVIATIONS = (
    "a.m p.m e.g i.e u.s u.k ph.d mr mrs ms dr prof sr jr st vs etc inc ltd co corp vol fig dept gen col lt sgt rep "
    "sen gov jan feb mar apr jun jul aug sep sept oct nov dec"
)


def count_sentences(text: str) -> int:
    """Count sentences."""
    return len(_sentences().tokenize(text))


def words_of(text: str) -> list[str]:
    """Words and punctuation, as NLTK's word_tokenize parts them."""
    return [word for sentence in _sentences().tokenize(text) for word in _words().tokenize(sentence)]


def is_language(text: str, language: str) -> bool:
    """Whether a text is in a language.

    Args:
        text: to be looked at.
        language: its code, such as "en".

    Returns:
        What langdetect says; True where it can't tell, as with the authors.
    """
    detector = optional_package("langdetect", "telling languages apart", "suites")
    # It draws at random, each time anew where it has no seed.
    detector.DetectorFactory.seed = 0
    try:
        return bool(detector.detect(text) == language)
    except detector.LangDetectException:
        return True


@cache
def _sentences() -> Any:
    punkt = optional_package("nltk.tokenize.punkt", "counting sentences", "suites")
    parameters = punkt.PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS.split())
    return punkt.PunktSentenceTokenizer(parameters)


@cache
def _words() -> Any:
    return optional_package("nltk.tokenize", "counting words", "suites").NLTKWordTokenizer()
