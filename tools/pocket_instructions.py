"""Instructions with responses for pretraining, of kinds that are not among the pocket tasks."""

from __future__ import annotations

import random
from collections.abc import Callable

from fedloom.data.pocket_tasks import lexicon as lex

# Facts asked for in instructions; they are stated in running text as well.
RELATIONS: dict[str, dict[str, str]] = {
    name: dict(pair.split("/") for pair in text.split())
    for name, text in {
        "capital": """Norway/Oslo France/Paris Italy/Rome Spain/Madrid Germany/Berlin Austria/Vienna
        Portugal/Lisbon Ireland/Dublin Greece/Athens Poland/Warsaw Egypt/Cairo Japan/Tokyo Peru/Lima
        India/Delhi Vietnam/Hanoi Korea/Seoul Ecuador/Quito""",
        "language": """Norway/Norwegian France/French Italy/Italian Spain/Spanish Germany/German Greece/Greek
        Poland/Polish Portugal/Portuguese Japan/Japanese Korea/Korean Egypt/Arabic Peru/Spanish""",
        "season": """January/winter February/winter March/spring April/spring May/spring June/summer
        July/summer August/summer September/autumn October/autumn November/autumn December/winter""",
        "workplace": """nurse/hospital teacher/school clerk/office farmer/field cook/kitchen lawyer/court
        pilot/airport baker/bakery waiter/restaurant judge/court driver/road tailor/workshop""",
        "paint": """banana/yellow snow/white grass/green coal/black blood/red sky/blue lemon/yellow crow/black
        milk/white carrot/orange plum/purple frog/green swan/white cherry/red robin/red iron/grey""",
        "child": """horse/foal dog/puppy cat/kitten cow/calf sheep/lamb goat/kid bear/cub duck/duckling
        swan/cygnet pig/piglet""",
    }.items()
}
CLASSES: tuple[dict[str, tuple[str, ...]], ...] = (
    lex.CATEGORIES, lex.CATEGORIES, lex.TOPICS, lex.SENTIMENTS, lex.TRIAGE
)  # fmt: skip
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
    form = rng.choice(("{1}. What follows {0}?", "Which word stands after {0} in {1}?", "After {0} comes what? {1}"))
    return form.format(words[at], listed), words[at + 1]


def _member(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    word = rng.choice(words) if rng.random() < 0.5 else rng.choice(lex.WORDS)
    form = rng.choice(("Is {0} in the list {1}?", "{1}. Do you see {0}?", "Does {1} have {0}?"))
    return form.format(word, listed), "yes" if word in words else "no"


def _repeat(rng: random.Random) -> tuple[str, str]:
    _, listed = _list(rng)
    form = rng.choice(("Repeat: {0}", "Say this again: {0}", "{0}. Copy the list.", "Write the same words. {0}"))
    return form.format(listed), listed


def _swap(rng: random.Random) -> tuple[str, str]:
    one, two = rng.sample(lex.WORDS, 2)
    form = rng.choice(("Swap {0} and {1}.", "Write {0} {1} the other way round.", "Exchange the words: {0} {1}"))
    return form.format(one, two), f"{two} {one}"


def _drop(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    gone = rng.choice(words)
    form = rng.choice(("Remove {0} from {1}.", "{1}. Leave out {0}.", "Delete {0}: {1}"))
    return form.format(gone, listed), ", ".join(word for word in words if word != gone)


def _replace(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    old, new = rng.choice(words), rng.choice(lex.WORDS)
    form = rng.choice(("Replace {0} by {1}: {2}", "{2}. Use {1} instead of {0}.", "In {2}, turn {0} into {1}."))
    return form.format(old, new, listed), ", ".join(new if word == old else word for word in words)


def _reverse(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    form = rng.choice(("Reverse {0}.", "Read backwards: {0}", "{0}. Start with the last and end with the first."))
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
    return rng.choice((f"Which number follows {number}?", f"What comes right after {number}?")), str(number + 1)


def _relation(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(sorted(RELATIONS))
    key, value = rng.choice(sorted(RELATIONS[name].items()))
    forms = {
        "capital": ("What is the capital of {0}?", "Capital of {0}?", "Which city governs {0}?"),
        "language": ("What do people speak in {0}?", "Language of {0}?", "Name the language used in {0}."),
        "season": ("Which season has {0}?", "{0} is in what season?", "Name the season for {0}."),
        "workplace": ("Where does a {0} work?", "Workplace of a {0}?", "Name the place of a {0}."),
        "paint": ("Which paint fits {0}?", "How would you paint {0}?", "Pick a pencil to draw {0}."),
        "child": ("What is a young {0} called?", "Child of a {0}?", "Name the young of the {0}."),
    }[name]
    return rng.choice(forms).format(key), value


def _similar(rng: random.Random) -> tuple[str, str]:
    pools = rng.choice(CLASSES)
    one, two = rng.sample(pools[rng.choice(sorted(pools))], 2)
    forms = (
        "Say something similar to {0}.",
        "What goes with {0}?",
        "{0}: give one more like it.",
        "{0} and what else?",
    )
    return rng.choice(forms).format(one), two


def _alike(rng: random.Random) -> tuple[str, str]:
    pools = rng.choice(CLASSES)
    one, other = rng.sample(sorted(pools), 2)
    first, second = rng.sample(pools[one], 2)
    alike = rng.random() < 0.5
    second = second if alike else rng.choice(pools[other])
    forms = ("Do {0} and {1} fit together?", "{0}, {1}: the same sort?", "Is {0} like {1}?")
    return rng.choice(forms).format(first, second), "yes" if alike else "no"


def _odd_one(rng: random.Random) -> tuple[str, str]:
    pools = rng.choice(CLASSES)
    one, other = rng.sample(sorted(pools), 2)
    odd = rng.choice(pools[other])
    words = [*rng.sample(pools[one], 3), odd]
    rng.shuffle(words)
    forms = ("Which one does not fit? {0}", "{0}: find the odd one.", "Who is the stranger in {0}?")
    return rng.choice(forms).format(", ".join(words)), odd


def _worse(rng: random.Random) -> tuple[str, str]:
    levels = rng.sample(("urgent", "soon", "routine"), 2)
    cases = {level: rng.choice(lex.TRIAGE[level]) for level in levels}
    first = next(level for level in ("urgent", "soon", "routine") if level in cases)
    forms = (
        "Who goes first: {0} or {1}?",
        "Which is worse, {0} or {1}?",
        "{0} and {1}: whom do you help now?",
    )
    return rng.choice(forms).format(*cases.values()), cases[first]


def _recommend(rng: random.Random) -> tuple[str, str]:
    sign = rng.choice(sorted(lex.SENTIMENTS))
    noun, word = rng.choice(lex.SENTIMENT_NOUNS), rng.choice(lex.SENTIMENTS[sign])
    forms = (
        "the {0} was {1}. Would you come again?",
        "Do you want a {1} {0}?",
        "the {0} is {1}. Was it worth it?",
    )
    return rng.choice(forms).format(noun, word), "yes" if sign == "positive" else "no"


def _owner(rng: random.Random) -> tuple[str, str]:
    names, items, cities = rng.sample(lex.NAMES, 2), rng.sample(lex.ITEMS, 2), rng.sample(lex.CITIES, 2)
    pool, form = rng.choice(((items, "{0} has the {1}"), (cities, "{0} comes from {1}"), (cities, "{0} moved to {1}")))
    text = " and ".join(form.format(name, thing) for name, thing in zip(names, pool, strict=True))
    at = rng.randrange(2)
    if rng.random() < 0.5:
        return rng.choice(("{1}. Who goes with {0}?", "Who is linked to {0}? {1}.")).format(pool[at], text), names[at]
    return rng.choice(("{1}. What goes with {0}?", "What is linked to {0}? {1}.")).format(names[at], text), pool[at]


def _times(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(2, 9), rng.randint(2, 5)
    forms = ("What is {0} times {1}?", "Multiply {0} by {1}.", "{1} rows of {0}: what is the product?")
    return rng.choice(forms).format(a, b), str(a * b)


def _steps(rng: random.Random) -> tuple[str, str]:
    start, steps, sign = rng.randint(6, 24), rng.randint(2, 5), rng.choice((1, -1))
    way = "up" if sign > 0 else "down"
    forms = (
        "Go {0} from {1}, {2} steps.",
        "Walk {2} numbers {0} after {1}.",
        "{1}: list the next {2} going {0}.",
    )
    path = ", ".join(str(start + sign * step) for step in range(1, steps + 1))
    return rng.choice(forms).format(way, start, steps), path


def _neighbour(rng: random.Random) -> tuple[str, str]:
    cycle, kind = rng.choice(((lex.DAYS, "day"), (lex.MONTHS, "month")))
    at = rng.randrange(len(cycle))
    if rng.random() < 0.5:
        return rng.choice((f"Which {kind} is just before {cycle[at]}?", f"Before {cycle[at]}?")), cycle[at - 1]
    return rng.choice((f"Which {kind} follows {cycle[at]}?", f"Next after {cycle[at]}?")), cycle[(at + 1) % len(cycle)]


def _short_date(rng: random.Random) -> tuple[str, str]:
    month, day, year = rng.randint(1, 12), rng.randint(1, 28), rng.randint(2010, 2029)
    iso, long = f"{year}-{month:02d}-{day:02d}", f"{day} {lex.MONTHS[month - 1]} {year}"
    if rng.random() < 0.5:
        return rng.choice(("Shorten {0} to digits.", "{0} with digits only?")).format(long), iso
    return rng.choice(("Which month has {0}?", "{0}: only the month.")).format(iso), lex.MONTHS[month - 1]


def _large_unit(rng: random.Random) -> tuple[str, str]:
    large, small, factor, most = rng.choice(lex.UNITS)
    n = rng.randint(2, most)
    forms = ("{0} {1} make how many {2}?", "Group {0} {1} to {2}.", "Go from {0} {1} up to {2}.")
    return rng.choice(forms).format(n * factor, small, large), str(n)


def _number_list(rng: random.Random) -> tuple[str, str]:
    words, listed = _list(rng)
    forms = ("Number the list {0}.", "Write a number before each: {0}", "{0}. Number them.")
    return rng.choice(forms).format(listed), ", ".join(f"{at} {word}" for at, word in enumerate(words, 1))


def _actor(rng: random.Random) -> tuple[str, str]:
    verb, thing = rng.choice(rng.choice(lex.VERBS)), rng.choice(lex.VERB_OBJECTS)
    old, new = rng.sample(lex.ACTORS, 2)
    before, after = f"the {old} {verb} the {thing}.", f"the {new} {verb} the {thing}."
    forms = ("Let the {0} do it: {1}", "{1} Now it is the {0}.", "Tell it of the {0}. {1}")
    return rng.choice(forms).format(new, before), after


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
    _place, _next, _member, _repeat, _swap, _drop, _replace, _reverse, _where, _successor,
    _relation, _relation, _similar, _similar, _alike, _odd_one, _worse, _recommend, _owner, _owner,
    _times, _neighbour, _short_date, _large_unit, _steps, _number_list, _actor, _greet, _look_up,
    _even, _copy_number,
)  # fmt: skip
