"""ROUGE, BLEU and distinct-n: published numbers, and what must hold of any texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.suites.text_measures import bleu, distinct, text_measures

TEXTS = st.lists(st.text("ab cd é你", min_size=1), min_size=1, max_size=4)


def test_rouge_of_a_known_pair():
    # The example of rouge_score's own page.
    found = text_measures("The quick brown dog jumps on the log.", ["The quick brown fox jumps over the lazy dog"])
    assert found["rouge_1"] == pytest.approx(2 * 0.75 * 6 / 9 / (0.75 + 6 / 9))
    assert found["rouge_l"] == pytest.approx(2 * 0.625 * 5 / 9 / (0.625 + 5 / 9))


def test_the_best_reference_counts():
    references = ["rain in spain", "sun in the south"]
    assert text_measures("sun in the south", references) == {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0}
    assert text_measures("snow", references) == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}


def test_other_scripts_have_words_too():
    assert text_measures("чай и кофе", ["чай, кофе и сок"])["rouge_1"] == pytest.approx(2 * 3 / 7)
    assert text_measures("чай", ["кофе"])["rouge_1"] == 0.0


def test_bleu_of_papineni_s_first_example():
    # Clipped precision: 2 of 7 words of the candidate count (Papineni et al. 2002), and no pair of words does.
    references = [["the cat is on the mat", "there is a cat on the mat"]]
    assert bleu(["the the the the the the the"], references)["bleu"] < 0.1
    assert bleu(["the cat is on the mat"], references) == {"bleu": pytest.approx(1.0), "chrf": pytest.approx(1.0)}


def test_answers_may_have_different_numbers_of_references():
    found = bleu(["a b c d e", "f g h i j"], [["a b c d e"], ["x", "f g h i j"]])
    assert found["bleu"] == pytest.approx(1.0)


def test_distinct():
    assert distinct(["a b a b"], 1) == 0.5
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a b", "a b"], 2) == 0.5
    assert distinct(["a"], 2) == 0.0


@settings(max_examples=30)
@given(TEXTS)
def test_measures_are_shares(texts):
    found = [*text_measures(texts[0], texts).values(), *bleu(texts, [texts] * len(texts)).values(), distinct(texts, 1)]
    assert all(0 <= value <= 1 + 1e-9 for value in found)
