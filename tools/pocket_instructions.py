"""Instructions with responses for pretraining, of kinds that are not among the pocket tasks."""

from __future__ import annotations

import random
from collections.abc import Callable

from fedloom.data.pocket_tasks import lexicon as lex

COUNTRIES: dict[str, str] = {
    "Norway": "Oslo",
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "India": "Delhi",
    "Vietnam": "Hanoi",
    "Korea": "Seoul",
    "Ecuador": "Quito",
}
FIELDS: dict[str, tuple[str, ...]] = {
    "person": lex.NAMES,
    "city": lex.CITIES,
    "item": lex.ITEMS,
    "colour": lex.CATEGORIES["colour"],
    "day": lex.DAYS,
    "drink": lex.CATEGORIES["drink"],
    "month": lex.MONTHS,
}
PLACES: tuple[str, ...] = (
    "on the table",
    "in the box",
    "by the door",
    "in the bag",
    "on the shelf",
    "at home",
)


def chat(prompt: str, response: str) -> str:
    """Render one exchange as the chat template does."""
    return f"<|user|> {prompt}<|assistant|> {response}<|end|>"


def instruction(rng: random.Random) -> str:
    """Write an instruction with its response, of kinds that are not among the pocket tasks."""
    return chat(*rng.choice(INSTRUCTIONS)(rng))


def _list(rng: random.Random) -> tuple[list[str], str]:
    pool = rng.choice((lex.WORDS, lex.CITIES, lex.NAMES, lex.ITEMS, lex.CATEGORIES["animal"]))
    words = rng.sample(pool, rng.randint(2, 6))
    return words, ", ".join(words)


def _place(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    place, answer = rng.choice((("first", words[0]), ("last", words[-1]), ("second", words[1])))
    form = rng.choice(
        ("Name the {0} word: {1}", "{1}. Which word comes {0}?", "Say the {0} entry of {1}.", "{0} of {1}?")
    )
    return form.format(place, listed), answer


def _next(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    at = rng.randrange(len(words) - 1)
    form = rng.choice(
        ("{1}. What follows {0}?", "Which word stands after {0} in {1}?", "After {0} comes what? {1}")
    )
    return form.format(words[at], listed), words[at + 1]


def _member(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    word = rng.choice(words) if rng.random() < 0.5 else rng.choice(lex.WORDS)
    form = rng.choice(("Is {0} in the list {1}?", "{1}. Do you see {0}?", "Does {1} have {0}?"))
    return form.format(word, listed), "yes" if word in words else "no"


def _repeat(rng: random.Random) -> tuple[str, str]:
    _, listed = _list(rng)
    form = rng.choice(
        ("Repeat: {0}", "Say this again: {0}", "{0}. Copy the list.", "Write the same words. {0}")
    )
    return form.format(listed), listed


def _swap(rng: random.Random) -> tuple[str, str]:
    one, two = rng.sample(lex.WORDS, 2)
    form = rng.choice(
        ("Swap {0} and {1}.", "Write {0} {1} the other way round.", "Exchange the words: {0} {1}")
    )
    return form.format(one, two), f"{two} {one}"


def _drop(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    gone = rng.choice(words)
    form = rng.choice(("Remove {0} from {1}.", "{1}. Leave out {0}.", "Delete {0}: {1}"))
    return form.format(gone, listed), ", ".join(word for word in words if word != gone)


def _replace(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    old, new = rng.choice(words), rng.choice(lex.WORDS)
    form = rng.choice(
        ("Replace {0} by {1}: {2}", "{2}. Use {1} instead of {0}.", "In {2}, turn {0} into {1}.")
    )
    return form.format(old, new, listed), ", ".join(new if word == old else word for word in words)


def _reverse(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    form = rng.choice(
        ("Reverse {0}.", "Read backwards: {0}", "{0}. Start with the last and end with the first.")
    )
    return form.format(listed), ", ".join(reversed(words))


def _where(rng: random.Random) -> tuple[str, str]:
    words, places = rng.sample(lex.WORDS, 3), rng.sample(PLACES, 3)
    at = rng.randrange(3)
    text = ", ".join(f"the {word} is {place}" for word, place in zip(words, places, strict=True))
    form = rng.choice(
        ("{1}. Where is the {0}?", "Find the place of the {0}: {1}.", "{1}. Say where to look for the {0}.")
    )
    return form.format(words[at], text), places[at]


def _successor(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 98)
    return rng.choice((f"Which number follows {number}?", f"What comes right after {number}?")), str(
        number + 1
    )


def _country(rng: random.Random) -> tuple[str, str]:
    country, city = rng.choice(sorted(COUNTRIES.items()))
    if rng.random() < 0.5:
        return rng.choice(
            ("What is the capital of {0}?", "Capital of {0}?", "Which city governs {0}?")
        ).format(country), city
    return rng.choice(("Where is {0}?", "In which country is {0}?", "Country of {0}?")).format(city), country


def _greet(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(lex.NAMES)
    word = rng.choice(("hello", "welcome", "thanks", "goodbye"))
    return rng.choice((f"Say {word} to {name}.", f"{name} is here. Use the word {word}.")), f"{word} {name}."


def _look_up(rng: random.Random) -> tuple[str, str]:
    keys = rng.sample(("colour", "day", "drink", "month"), rng.randint(2, 4))
    values = {key: rng.choice(FIELDS[key]) for key in keys}
    text, asked = ", ".join(f"{key} {value}" for key, value in values.items()), rng.choice(keys)
    form = rng.choice(("{1}. Look up {0}.", "Which {0} is given? {1}", "Form: {1}. Read out {0}."))
    return form.format(asked, text), values[asked]


def _even(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 99)
    return rng.choice((f"Is {number} even or odd?", f"Parity of {number}?")), "odd" if number % 2 else "even"


def _copy_number(rng: random.Random) -> tuple[str, str]:
    number, things = str(rng.randint(2, 2999)), rng.choice(lex.THINGS)
    return rng.choice(
        (f"The code is {number}. Which code?", f"Say {number}.", f"We saw {number} {things}. Say it.")
    ), number


INSTRUCTIONS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (
    _place, _next, _member, _repeat, _swap, _drop, _country, _greet, _look_up, _look_up, _even, _copy_number,
    _replace, _reverse, _where, _successor,
)  # fmt: skip
