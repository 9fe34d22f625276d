"""How much an answer has in common with references (ROUGE, BLEU, chrF), and how much answers vary (distinct-n)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from typing import Any

from fedloom.data.readers import optional_package

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def text_measures(answer: str, references: Sequence[str]) -> dict[str, float]:
    """Compare one answer with its references.

    Args:
        answer: a text.
        references: at least one.

    Returns:
        rouge_1, rouge_2 and rouge_l, between 0 and 1, of the best reference each.
    """
    return rouge(answer, references)


def rouge(answer: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE (Lin 2004), F1 with stemming, by the package rouge_score.

    Its words are those of a-z and 0-9. Where the references have more letters of other scripts, words are what is
    between spaces and punctuation, without stemming; that is our choice.

    Args:
        answer: a text.
        references: at least one.

    Returns:
        rouge_1, rouge_2 and rouge_l, of the best reference each.
    """
    letters = [letter for text in references for letter in text if letter.isalpha()]
    scorer = _rouge_scorer(2 * sum(letter.isascii() for letter in letters) >= len(letters))
    scores = [scorer.score(reference, answer) for reference in references]
    return {name: max(score[theirs].fmeasure for score in scores) for name, theirs in _ROUGE.items()}


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU and chrF of all answers together, by the package sacrebleu with its own settings.

    Args:
        answers: texts.
        references: of each answer, at least one.

    Returns:
        bleu and chrf, between 0 and 1 (sacrebleu itself has percentages).
    """
    sacrebleu = optional_package("sacrebleu", "BLEU", "suites")
    most = max(map(len, references))
    # By place among the references, None where an answer has fewer.
    streams = [[texts[place] if place < len(texts) else None for texts in references] for place in range(most)]
    return {
        "bleu": sacrebleu.corpus_bleu(list(answers), streams).score / 100,
        "chrf": sacrebleu.corpus_chrf(list(answers), streams).score / 100,
    }


def distinct(answers: Sequence[str], n: int) -> float:
    """How varied answers are: different n-grams over all n-grams (distinct-n, arXiv 1510.03055).

    Args:
        answers: texts, split at white space.
        n: words of an n-gram.

    Returns:
        Between 0 and 1; 0 where no answer has so many words.
    """
    grams = []
    for answer in answers:
        words = answer.lower().split()
        grams += [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def normalised_words(text: str) -> list[str]:
    """Lower case words without punctuation."""
    return text.lower().translate(_PUNCTUATION).split()


class _Words:
    """Words between spaces and punctuation, of any script."""

    def tokenize(self, text: str) -> list[str]:
        """Under the name that rouge_score looks for."""
        return normalised_words(text)


@cache
def _rouge_scorer(latin: bool) -> Any:
    scorer = optional_package("rouge_score.rouge_scorer", "ROUGE", "suites")
    return scorer.RougeScorer(list(_ROUGE.values()), use_stemmer=latin, tokenizer=None if latin else _Words())
