"""The fifteen families of pocket tasks: how each draws values, and which values only the test set may use."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from fedloom.data.pocket_tasks import lexicon as lex
from fedloom.data.pocket_tasks.wordings import TRAIN_WORDINGS, VALIDATION_WORDINGS, WORDINGS

SPLITS: tuple[str, ...] = ("train", "validation", "test")
HELD_OUT_SHARE = 5  # one value in this many belongs to the test set alone


@dataclass(frozen=True)
class Draw:
    """One task before it is put into words.

    Attributes:
        slots: what the wording's placeholders are filled with.
        answer: the one accepted response.
        values: what decides on which side of the hold-out the task lies; all must be on the same side.
    """

    slots: dict[str, str]
    answer: str
    values: tuple[str, ...]


Sampler = Callable[[random.Random], Draw]


# Families whose values are listed words: each list gives the same share, so that every label is tested.
LISTED: dict[str, tuple[tuple[str, ...], ...]] = {
    "sentiment": tuple(lex.SENTIMENTS.values()),
    "topic": tuple(lex.TOPICS.values()),
    "extraction": (lex.NAMES, lex.CITIES, lex.ITEMS),
    "rewriting": (tuple(present for present, _ in lex.VERBS),),
    "triage": tuple(lex.TRIAGE.values()),
    "opposite": tuple(zip(*lex.OPPOSITES, strict=True)),
    "category": tuple(lex.CATEGORIES.values()),
}


def _digest(family: str, value: str) -> int:
    return int.from_bytes(hashlib.sha256(f"pocket-tasks/{family}/{value}".encode()).digest()[:8], "big")


@cache
def _held_out_words(family: str) -> frozenset[str]:
    held: set[str] = set()
    for pool in LISTED[family]:
        held.update(sorted(pool, key=lambda word: _digest(family, word))[: round(len(pool) / HELD_OUT_SHARE)])
    return frozenset(held)


def is_held_out(family: str, value: str) -> bool:
    """Tell whether a value is kept for the test set; the same for every seed, so seeds can be compared.

    Args:
        family: the family the value belongs to.
        value: one of `Draw.values`.

    Returns:
        True for about one value in `HELD_OUT_SHARE`, by a fixed hash.
    """
    if family in LISTED:
        return value in _held_out_words(family)
    return _digest(family, value) % HELD_OUT_SHARE == 0


def wordings(family: str, split: str) -> tuple[str, ...]:
    """Return the wordings of a family that one split may use."""
    every = WORDINGS[family]
    bounds = (0, TRAIN_WORDINGS, TRAIN_WORDINGS + VALIDATION_WORDINGS, len(every))
    position = SPLITS.index(split)
    return every[bounds[position] : bounds[position + 1]]


def draw(family: str, split: str, rng: random.Random) -> Draw:
    """Draw one task of a family whose values the split may use.

    Args:
        family: a key of `FAMILIES`.
        split: "train", "validation" or "test".
        rng: the source of randomness, advanced in place.

    Returns:
        The task, not yet in words.
    """
    wanted = split == "test"
    sampler = FAMILIES[family]
    while True:
        candidate = sampler(rng)
        if all(is_held_out(family, value) == wanted for value in candidate.values):
            return candidate


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _arithmetic(rng: random.Random) -> Draw:
    a, b = rng.randint(2, 19), rng.randint(2, 9)
    slots = {"name": rng.choice(lex.NAMES), "things": rng.choice(lex.THINGS), "a": str(a), "b": str(b)}
    return Draw(slots, str(a + b), (f"{a}+{b}",))


def _subtraction(rng: random.Random) -> Draw:
    b = rng.randint(2, 9)
    # A rest equal to what was taken away would stand in the prompt.
    rest = rng.choice([number for number in range(1, 20) if number != b])
    a = rest + b
    slots = {"name": rng.choice(lex.NAMES), "things": rng.choice(lex.THINGS), "a": str(a), "b": str(b)}
    return Draw(slots, str(rest), (f"{a}-{b}",))


def _units(rng: random.Random) -> Draw:
    large, small, factor, most = rng.choice(lex.UNITS)
    count = rng.randint(2, most)
    slots = {"n": str(count), "large": large, "small": small}
    return Draw(slots, str(count * factor), (f"{count} {large}",))


def _dates(rng: random.Random) -> Draw:
    month, day, year = rng.randint(1, 12), rng.randint(1, 28), rng.randint(2010, 2029)
    answer = f"{day} {lex.MONTHS[month - 1]} {year}"
    return Draw({"iso": f"{year}-{month:02d}-{day:02d}"}, answer, (f"{month:02d}-{day:02d}",))


def _weekday(rng: random.Random) -> Draw:
    start, ahead = rng.randrange(7), rng.randint(2, 6)
    slots = {
        "day": lex.DAYS[start],
        "n": str(ahead),
        "event": rng.choice(lex.EVENTS),
        "name": rng.choice(lex.NAMES),
    }
    return Draw(slots, lex.DAYS[(start + ahead) % 7], (f"{start}+{ahead}",))


def _sentiment(rng: random.Random) -> Draw:
    label = rng.choice(("positive", "negative", "mixed"))
    signs = [label, label] if label != "mixed" else rng.sample(sorted(lex.SENTIMENTS), 2)
    first, second = (rng.choice(lex.SENTIMENTS[sign]) for sign in signs)
    one, two = rng.sample(lex.SENTIMENT_NOUNS, 2)
    review = f"the {one} was {first} and the {two} was {second}."
    return Draw({"review": review}, label, (first, second))


HEADLINES: tuple[str, ...] = (
    "a long report about the {one} and the {two}.",
    "new questions over the {one} and the {two}.",
    "what the {one} means for the {two}.",
    "the {one}, the {two} and what comes next.",
)


def _topic(rng: random.Random) -> Draw:
    label = rng.choice(sorted(lex.TOPICS))
    one, two = rng.sample(lex.TOPICS[label], 2)
    return Draw({"headline": rng.choice(HEADLINES).format(one=one, two=two)}, label, (one, two))


RECORDS: tuple[str, ...] = (
    "{person} from {city} ordered {item}.",
    "in {city}, {person} paid for {item}.",
    "{item} was sent to {person} in {city}.",
    "{person} returned {item} in {city}.",
)


def _extraction(rng: random.Random) -> Draw:
    fields = {"person": rng.choice(lex.NAMES), "city": rng.choice(lex.CITIES), "item": rng.choice(lex.ITEMS)}
    role = rng.choice(sorted(fields))
    record = rng.choice(RECORDS).format(**{**fields, "item": _a(fields["item"])})
    return Draw({"role": role, "record": record}, fields[role], (fields[role],))


def _comparison(rng: random.Random) -> Draw:
    low, high = sorted(10 * tens + rng.randrange(10) for tens in rng.sample(range(1, 10), 2))
    a, b = rng.sample((low, high), 2)
    return Draw({"a": str(a), "b": str(b)}, str(high), (f"{low}<{high}",))


def _rewriting(rng: random.Random) -> Draw:
    present, past = rng.choice(lex.VERBS)
    actor, thing = rng.choice(lex.ACTORS), rng.choice(lex.VERB_OBJECTS)
    return Draw({"sentence": f"the {actor} {present} the {thing}."}, f"the {actor} {past} the {thing}.", (present,))


def _sorting(rng: random.Random) -> Draw:
    rising = sorted(10 * tens + rng.randrange(10) for tens in rng.sample(range(1, 10), 3))
    while (shuffled := rng.sample(rising, 3)) == rising:
        pass
    answer = ", ".join(map(str, rising))
    return Draw({"numbers": ", ".join(map(str, shuffled))}, answer, (answer,))


def _counting(rng: random.Random) -> Draw:
    words = rng.sample(lex.WORDS, rng.randint(2, 8))
    listed = ", ".join(words)
    return Draw({"words": listed}, str(len(words)), (listed,))


def _triage(rng: random.Random) -> Draw:
    label = rng.choice(sorted(lex.TRIAGE))
    symptom = rng.choice(lex.TRIAGE[label])
    return Draw({"symptom": symptom, "name": rng.choice(lex.NAMES)}, label, (symptom,))


def _opposite(rng: random.Random) -> Draw:
    word, answer = rng.sample(rng.choice(lex.OPPOSITES), 2)
    return Draw({"word": word}, answer, (word,))


def _category(rng: random.Random) -> Draw:
    label = rng.choice(sorted(lex.CATEGORIES))
    word = rng.choice(lex.CATEGORIES[label])
    return Draw({"word": word}, label, (word,))


FAMILIES: dict[str, Sampler] = {
    "arithmetic": _arithmetic,
    "subtraction": _subtraction,
    "units": _units,
    "dates": _dates,
    "weekday": _weekday,
    "sentiment": _sentiment,
    "topic": _topic,
    "extraction": _extraction,
    "comparison": _comparison,
    "rewriting": _rewriting,
    "sorting": _sorting,
    "counting": _counting,
    "triage": _triage,
    "opposite": _opposite,
    "category": _category,
}
