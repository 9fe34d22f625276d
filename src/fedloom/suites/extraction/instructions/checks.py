"""The 25 instructions by name: each check is a function of a response and of the instruction's arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedloom.suites.extraction.instructions.words import count_sentences, is_language, words_of

# Given a response that is not empty, and the instruction's arguments by name.
Check = Callable[..., bool]

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")


def follows(response: str, instruction: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a response follows an instruction.

    Args:
        response: a text.
        instruction: its name, such as "punctuation:no_comma".
        arguments: the instruction's own; None where there is none of a name.

    Returns:
        False for an empty response.

    Raises:
        KeyError: for an unknown instruction.
    """
    check = CHECKS[instruction]
    given = {name: value for name, value in arguments.items() if value is not None}
    return bool(response.strip()) and check(response, **given)


def _compares(count: int, relation: str, bound: int) -> bool:
    if relation not in {"less than", "at least"}:
        raise ValueError(f"not a relation: {relation!r}")
    return count < bound if relation == "less than" else count >= bound


def keywords_exist(text: str, keywords: Sequence[str]) -> bool:
    """All keywords occur, in any case, also within words."""
    return all(re.search(word, text, re.IGNORECASE) for word in keywords)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    """A keyword occurs so often."""
    return _compares(len(re.findall(keyword.strip(), text, re.IGNORECASE)), relation, frequency)


def forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    """No such word occurs, in any case."""
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """A letter, of either case, occurs so often."""
    return _compares(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    """The text is in a language."""
    return is_language(text, language)


def number_of_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """The text has so many sentences."""
    return _compares(count_sentences(text), relation, num_sentences)


def number_of_words(text: str, num_words: int, relation: str) -> bool:
    """The text has so many words: stretches of letters, digits and underscores."""
    return _compares(len(re.findall(r"\w+", text)), relation, num_words)


def number_of_paragraphs(text: str, num_paragraphs: int) -> bool:
    """The text has so many paragraphs between ***; only the first and the last may be empty, and don't count."""
    paragraphs = [one.strip() for one in re.split(r"\s?\*\*\*\s?", text)]
    # The only one is first and last.
    kept = [one for place, one in enumerate(paragraphs) if one or 0 < place < len(paragraphs) - 1]
    return all(kept) and len(kept) == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """There are so many paragraphs between empty lines, and one of them begins with a word."""
    paragraphs = text.split("\n\n")
    count = sum(bool(one.strip()) for one in paragraphs)
    if nth_paragraph > count or not (paragraph := paragraphs[nth_paragraph - 1].strip()):
        return False
    word = paragraph.split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word.lower())[0] == first_word.lower()


def number_of_placeholders(text: str, num_placeholders: int) -> bool:
    """At least so many [placeholders] occur."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """A line has the marker of a postscript."""
    marker = postscript_marker.strip()
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    return bool(re.search(known.get(marker, rf"\s*{marker.lower()}.*$"), text.lower(), re.MULTILINE))


def number_of_bullets(text: str, num_bullets: int) -> bool:
    """Exactly so many lines begin with * or -."""
    starred = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashed = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(starred) + len(dashed) == num_bullets


def constrained_response(text: str) -> bool:
    """One of three sentences occurs."""
    return any(sentence in text for sentence in CONSTRAINED)


def number_of_highlights(text: str, num_highlights: int) -> bool:
    """At least so many *highlights* or **highlights** occur that are not empty."""
    single = [one.strip("*") for one in re.findall(r"\*[^\n\*]*\*", text)]
    double = [one.removeprefix("**").removesuffix("**") for one in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(bool(one.strip()) for one in single + double) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many numbered headings occur; the argument's name is the authors'."""
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) - 1 >= num_sections


def json_format(text: str) -> bool:
    """The whole text is JSON, maybe within a fence."""
    bare = text.strip()
    for fence in _FENCES:
        bare = bare.removeprefix(fence)
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """There is a <<title>> that is not empty."""
    return any(one.lstrip("<").rstrip(">").strip() for one in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    """There are two different responses between ******; only the first and the last part may be empty."""
    parts = [one.strip() for one in text.split("******")]
    kept = [one for place, one in enumerate(parts) if one or 0 < place < len(parts) - 1]
    return all(kept) and len(kept) == 2 and kept[0] != kept[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    """The text begins with the request, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    """The text ends with a phrase, in any case, also in quotation marks."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words are in capital letters."""
    return _compares(sum(word.isupper() for word in words_of(text)), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    """The text is English, in capital letters only."""
    return text.isupper() and is_language(text, "en")


def english_lowercase(text: str) -> bool:
    """The text is English, in small letters only."""
    return text.islower() and is_language(text, "en")


def no_comma(text: str) -> bool:
    """No comma occurs."""
    return "," not in text


def quotation(text: str) -> bool:
    """The whole text is in double quotation marks."""
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": keywords_exist,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_of_sentences,
    "length_constraints:number_paragraphs": number_of_paragraphs,
    "length_constraints:number_words": number_of_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_of_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_of_bullets,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_of_highlights,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
