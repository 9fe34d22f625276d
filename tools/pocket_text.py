"""Text the pocket model is pretrained on: statements of facts, other instructions, and a little real text.

The families of the pocket tasks occur here only as running text ("3 hours are 180 minutes."), never as an
instruction with a response: what the federation has to teach is to answer, not the facts.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from fedloom.data.pocket_tasks import lexicon as lex
from pocket_instructions import FIELDS, PLACES, RELATIONS, chat, instruction

Writer = Callable[[random.Random], str]

SIGNS: dict[str, str] = {"positive": "praise", "negative": "a complaint"}


def article(noun: str) -> str:
    """Put the indefinite article before a noun."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def addition(rng: random.Random) -> str:
    """Write a sum, bare or as a little story."""
    a, b = rng.randint(0, 20), rng.randint(0, 10)
    name, things = rng.choice(lex.NAMES), rng.choice(lex.THINGS)
    here, there = rng.sample(PLACES, 2)
    return rng.choice(
        (
            f"{a} plus {b} is {a + b}.",
            f"{a} + {b} = {a + b}",
            f"{name} had {a} {things} and got {b} more, so now {name} has {a + b} {things}.",
            f"with {a} {things} {here} and {b} {things} {there} there are {a + b} in total.",
            f"adding {b} to {a} gives {a + b}.",
            f"{a} {things} and {b} {things} together are {a + b} {things}.",
            f"first {a} {things} came, then {b} more were added. the total is {a + b}.",
            f"{a} and another {b}: that makes {a + b}.",
            ", ".join(f"{n} + {m} = {n + m}" for n, m in _pairs(rng)),
            ", ".join(f"{n} and {m} is {n + m}" for n, m in _pairs(rng)),
        )
    )


def _pairs(rng: random.Random) -> list[tuple[int, int]]:
    return [(rng.randint(0, 20), rng.randint(0, 10)) for _ in range(3)]


def difference(rng: random.Random) -> str:
    """Write a difference, bare or as a little story."""
    rest, b = rng.randint(0, 20), rng.randint(0, 10)
    a, name, things = rest + b, rng.choice(lex.NAMES), rng.choice(lex.THINGS)
    return rng.choice(
        (
            f"{a} minus {b} is {rest}.",
            f"{a} - {b} = {rest}",
            f"{name} had {a} {things} and gave away {b}, so {rest} {things} are left.",
            f"from {a} {things} {name} took {b}. what remains is {rest}.",
            f"taking {b} from {a} leaves {rest}.",
            f"of {a} {things} {b} were lost, broken or sold and {rest} remain.",
            f"{b} of {a} are gone, {rest} stay.",
            f"without {b} of the {a} {things} there are {rest}.",
            ", ".join(f"{n + m} - {m} = {n}" for n, m in _pairs(rng)),
            ", ".join(f"{n + m} less {m} is {n}" for n, m in _pairs(rng)),
        )
    )


def units(rng: random.Random) -> str:
    """Write one amount in two units."""
    large, small, factor, most = rng.choice(lex.UNITS)
    n = rng.randint(2, most)
    return rng.choice(
        (
            f"{n} {large} are {n * factor} {small}.",
            f"there are {n * factor} {small} in {n} {large}.",
            f"{n} {large} = {n * factor} {small}",
            f"counted in {small}, {n} {large} are {n * factor}.",
            f"{n} {large} expressed in {small}: {n * factor}",
            f"measured in {small}, {n} {large} make {n * factor}. each of the {large} has {factor} {small}.",
            f"converting {n} {large} into {small} gives {n * factor}.",
        )
    )


def dates(rng: random.Random) -> str:
    """Write one date in two forms."""
    month, day, year = rng.randint(1, 12), rng.randint(1, 28), rng.randint(2010, 2029)
    iso, long = f"{year}-{month:02d}-{day:02d}", f"{day} {lex.MONTHS[month - 1]} {year}"
    return rng.choice(
        (
            f"{iso} is {long}.",
            f"the date {iso} in words is {long}.",
            f"{iso}: {long}",
            f"we met on {long}, that is {iso}.",
            f"{iso} has day {day}, month {lex.MONTHS[month - 1]}, year {year}. written out: {long}",
            f"month {month:02d} is {lex.MONTHS[month - 1]}, so {iso} means {long}.",
        )
    )


def weekday(rng: random.Random) -> str:
    """Write how the days of the week follow each other."""
    start, n = rng.randrange(7), rng.randint(1, 7)
    day, end = lex.DAYS[start], lex.DAYS[(start + n) % 7]
    path = ", ".join(lex.DAYS[(start + step) % 7] for step in range(1, n + 1))
    event, name = rng.choice(lex.EVENTS), rng.choice(lex.NAMES)
    return rng.choice(
        (
            f"{n} days after {day} comes {end}.",
            f"if today is {day}, then in {n} days it is {end}.",
            f"{day} plus {n} days: {end}",
            f"{n} days on from {day}: {path}. so it is {end}.",
            f"the {event} is {n} days after {day}, on {end}.",
            f"{name} left on {day} and came back {n} days later, on {end}.",
            f"from {day}, {n} days lead to {end}.",
            f"{day} " + ", ".join(f"+ {step} = {lex.DAYS[(start + step) % 7]}" for step in rng.sample(range(1, 8), 3)),
        )
    )


def sentiment(rng: random.Random) -> str:
    """Write a review and what it amounts to."""
    label = rng.choice(("positive", "negative", "mixed"))
    signs = [label, label] if label != "mixed" else rng.sample(sorted(lex.SENTIMENTS), 2)
    first, second = (rng.choice(lex.SENTIMENTS[sign]) for sign in signs)
    one, two = rng.sample(lex.SENTIMENT_NOUNS, 2)
    review = f"the {one} was {first} and the {two} was {second}."
    return rng.choice(
        (
            f"{review} this review is {label}.",
            f"{review} {first} is {signs[0]}, {second} is {signs[1]}, together {label}.",
            f"a {label} opinion: {review}",
            f"{review} the mood is {label}.",
            f"{review} the feeling of the guest is {label}.",
            f"{first} is a {signs[0]} word and {second} is a {signs[1]} word.",
            f"{name_of(rng)} called the {one} {first}. that is {SIGNS[signs[0]]}, a {signs[0]} word.",
        )
    )


def name_of(rng: random.Random) -> str:
    """Draw a name."""
    return rng.choice(lex.NAMES)


def topic(rng: random.Random) -> str:
    """Write a headline and its section."""
    label = rng.choice(sorted(lex.TOPICS))
    one, two, three = rng.sample(lex.TOPICS[label], 3)
    return rng.choice(
        (
            f"a report about the {one} and the {two}: this is {label}.",
            f"what the {one} means for the {two}. section: {label}",
            f"the story of the {one} and the {two} belongs to {label}.",
            f"{one}, {two} and {three} are words of {label}.",
            f"{label} news: new questions over the {one} and the {two}.",
            f"the {one}, the {two} and more. the theme is {label}.",
            f"when we read {one}, the topic is {label}.",
        )
    )


def record(rng: random.Random) -> str:
    """Write who did what where, and then name some of the parts."""
    part = {"person": name_of(rng), "city": rng.choice(lex.CITIES), "item": rng.choice(lex.ITEMS)}
    person, city, item = part["person"], part["city"], article(part["item"])
    text = rng.choice(
        (
            f"{person} from {city} ordered {item}.",
            f"in {city}, {person} paid for {item}.",
            f"{item} was sent to {person} in {city}.",
            f"{person} returned {item} in {city}.",
            f"{person} lives in {city} and wants {item}.",
            f"we saw {item} in {city} and gave it to {person}.",
        )
    )
    roles = rng.sample(sorted(part), rng.randint(1, 3))
    form = rng.choice(
        ("the {0} is {1}.", "the {0} here is {1}.", "{0}: {1}.", "{1} is the {0}.", "as {0} we note {1}.")
    )
    return " ".join([text, *(form.format(role, part[role]) for role in roles)])


def fields(rng: random.Random) -> str:
    """Write a small form and look some of its fields up again."""
    keys = rng.sample(sorted(FIELDS), rng.randint(2, 4))
    values = {key: rng.choice(FIELDS[key]) for key in keys}
    text = ", ".join(f"{key} {value}" for key, value in values.items())
    asked = rng.sample(keys, rng.randint(1, len(keys)))
    return f"{text}. " + " ".join(f"the {key} is {values[key]}." for key in asked)


def comparison(rng: random.Random) -> str:
    """Write which of two numbers is the larger."""
    low, high = sorted(rng.sample(range(10, 100), 2))
    a, b = rng.sample((low, high), 2)
    return rng.choice(
        (
            f"of {a} and {b} the larger is {high}.",
            f"{a} and {b}: the bigger number is {high}.",
            f"{high} is greater than {low}.",
            f"{low} is less than {high}.",
            f"{low} < {high}",
            f"between {a} and {b} the smaller is {low} and the larger is {high}.",
            f"{a} or {b}? the higher one is {high}.",
            f"with {a} here and {b} there, {high} is the larger number.",
            ", ".join(f"{n} {'<' if n < m else '>'} {m}" for n, m in ((a, b), rng.sample(range(10, 100), 2))),
            ", ".join(f"{n} is {'less' if n < m else 'more'} than {m}" for n, m in ((a, b), (b, rng.randint(10, 99)))),
        )
    )


def past(rng: random.Random) -> str:
    """Write one sentence in the present and in the past."""
    (now, then), actor, thing = rng.choice(lex.VERBS), rng.choice(lex.ACTORS), rng.choice(lex.VERB_OBJECTS)
    present, before = f"the {actor} {now} the {thing}", f"the {actor} {then} the {thing}"
    return rng.choice(
        (
            f"today {present}. yesterday {before}.",
            f"{present}. in the past: {before}.",
            f"{present} now, as {before} last week.",
            f"{before}. today again {present}.",
            f"the past of {now} is {then}: {before}.",
            f"{present}. last year: {before}.",
        )
    )


def order(rng: random.Random) -> str:
    """Write numbers as they come and in order."""
    numbers = rng.sample(range(10, 100), rng.choice((2, 3, 3, 3, 4)))
    given, rising = ", ".join(map(str, numbers)), ", ".join(map(str, sorted(numbers)))
    falling = ", ".join(map(str, sorted(numbers, reverse=True)))
    return rng.choice(
        (
            f"{given} in rising order: {rising}",
            f"{given}. from small to large: {rising}.",
            f"the numbers {given} sorted are {rising}.",
            f"{given}. the smallest is {min(numbers)}, the largest is {max(numbers)}. sorted: {rising}",
            f"{given} with the lowest first: {rising}.",
            f"{given} from large to small: {falling}.",
            f"{rising} is an ascending order.",
        )
    )


def count(rng: random.Random) -> str:
    """Write a list and its length."""
    words = rng.sample(lex.WORDS, rng.randint(1, 9))
    listed, n = ", ".join(words), len(words)
    return rng.choice(
        (
            f"{listed}: {n} words.",
            f"the list {listed} has {n} items.",
            f"{listed}. the number of things is {n}.",
            ", ".join(f"{place} {word}" for place, word in enumerate(words, 1)) + f". so {listed} are {n}.",
            f"on the desk: {listed}. {n} objects.",
        )
    )


def triage(rng: random.Random) -> str:
    """Write how quickly a case has to be seen."""
    label = rng.choice(sorted(lex.TRIAGE))
    symptom, other = rng.sample(lex.TRIAGE[label], 2)
    return rng.choice(
        (
            f"{symptom} is {label}.",
            f"a patient with {symptom} is a case for {label}.",
            f"{symptom} and {other} are both {label}.",
            f"{name_of(rng)} has {symptom}. the level is {label}.",
            f"{label} cases: {symptom}, {other}.",
            f"the priority of {symptom} is {label}.",
        )
    )


def opposite(rng: random.Random) -> str:
    """Write two words of opposite meaning."""
    one, two = rng.sample(rng.choice(lex.OPPOSITES), 2)
    return rng.choice(
        (
            f"the opposite of {one} is {two}.",
            f"{one} is the reverse of {two}.",
            f"not {one} but {two}.",
            f"{one} and {two} are opposites.",
            f"the contrary of {one} is {two}.",
            f"{one}, or the other way round: {two}",
        )
    )


def category(rng: random.Random) -> str:
    """Write what kind of thing a word stands for."""
    label = rng.choice(sorted(lex.CATEGORIES))
    one, two, three = rng.sample(lex.CATEGORIES[label], 3)
    return rng.choice(
        (
            f"{one} is a kind of {label}.",
            f"{one}, {two} and {three} belong to the group {label}.",
            f"{one}: {label}",
            f"the type of {one} is {label}.",
            f"{label}: {one}, {two}, {three}.",
            f"{one} falls in the class {label}.",
        )
    )


def relation(rng: random.Random) -> str:
    """Write a fact that only the instructions of pretraining ask for."""
    name = rng.choice(sorted(RELATIONS))
    key, value = rng.choice(sorted(RELATIONS[name].items()))
    return rng.choice((f"the {name} of {key} is {value}.", f"{key} has the {name} {value}.", f"{key}, {name}: {value}"))


def product(rng: random.Random) -> str:
    """Write a few products."""
    return ", ".join(f"{a} times {b} is {a * b}" for a, b in [(rng.randint(2, 9), rng.randint(2, 5)) for _ in range(2)])


# Weights: what a study found hard (copying by role, comparing, sorting, the week) gets more text.
STATEMENTS: dict[Writer, float] = {
    addition: 1.6,
    difference: 1.6,
    units: 1.4,
    dates: 1.0,
    weekday: 1.2,
    sentiment: 1.0,
    topic: 0.7,
    record: 1.6,
    fields: 1.0,
    comparison: 1.4,
    past: 0.6,
    order: 1.4,
    count: 0.9,
    triage: 0.6,
    opposite: 0.7,
    category: 0.7,
    relation: 0.5,
    product: 0.2,
}


def generated(rng: random.Random) -> str:
    """Write one document: a few statements, or an instruction of another kind with its response."""
    if rng.random() < INSTRUCTION_SHARE:
        return instruction(rng)
    writers = rng.choices(list(STATEMENTS), weights=list(STATEMENTS.values()), k=rng.choice((1, 1, 2)))
    # Several statements of one kind in a row let the model learn from its context what is going on.
    texts = [writer(rng) for writer in writers for _ in range(rng.choice((1, 2)))]
    closed = [text if text.endswith(".") else f"{text};" for text in texts[:-1]]
    return f" {' '.join([*closed, texts[-1]])}<|end|>"


INSTRUCTION_SHARE = 0.5
REAL_FILES: tuple[str, ...] = (
    "instruct/gsm8k_train",
    "instruct/gpteacher_roleplay",
    "medical/medquad",
    "preference/ultrafeedback_1k",
)


def real(data: Path) -> Iterator[str]:
    """Read the real exchanges (MIT or CC BY licensed, training splits, ASCII only) and render them as chat.

    Args:
        data: the folder of the data sets.

    Yields:
        One rendered exchange after the other, cut to 1,200 characters so that no long answer dominates.
    """
    for name in REAL_FILES:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                prompt = row.get("question") or row.get("prompt") or f"{row['instruction']} {row['input']}".strip()
                response = row.get("answer") or row.get("chosen") or row.get("output") or ""
                if not isinstance(response, str):
                    response = response[-1]["content"]
                text = chat(prompt.strip(), response.strip())
                if text.isascii():
                    yield text[:1200]
