"""The pocket tasks: deterministic, skewed, correct, and nothing of the test set in training."""

from __future__ import annotations

import datetime
import functools
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fedloom.data.pocket_tasks import (
    ALL_FAMILIES,
    FAMILIES,
    is_held_out,
    main_families,
    mixture,
    pocket_rows,
    wordings,
)
from fedloom.data.pocket_tasks import lexicon as lex

Row = dict[str, str]
SEEDS = (0, 1)
MODEL = Path(__file__).parents[1] / "src" / "fedloom" / "model" / "pocket"
NUMBER = re.compile(r"\d+")
FIRST_ROW = {
    "prompt": "Arrange 74, 61, 49 in ascending order.",
    "response": "49, 61, 74",
    "family": "sorting",
    "client": "hospital-north",
    "split": "train",
}
COPIED = {"extraction", "comparison", "sorting"}  # families whose answer is made of parts of the prompt


generated = functools.cache(pocket_rows)


@pytest.fixture(params=SEEDS)
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return generated(request.param)


def numbers(row: Row) -> list[int]:
    return [int(number) for number in NUMBER.findall(row["prompt"])]


def words_of(row: Row) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", row["prompt"]))


def listed(row: Row) -> list[str]:
    found = re.search(r"(?:\w+, )+\w+", row["prompt"])
    assert found is not None
    return found.group().split(", ")


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert pocket_rows(3) == pocket_rows(3)
    assert pocket_rows(3) != pocket_rows(4)


def test_first_row_is_stable_across_machines() -> None:
    first = pocket_rows(0)[0]
    assert first == FIRST_ROW


def test_rows_have_text_in_every_field(rows: list[Row]) -> None:
    for row in rows:
        assert set(row) == {"prompt", "response", "family", "client", "split"}
        assert all(value and value == value.strip() for value in row.values())
        assert "{" not in row["prompt"]


def test_sizes(rows: list[Row]) -> None:
    sizes = Counter((row["client"], row["split"]) for row in rows)
    clients = {row["client"] for row in rows} - {ALL_FAMILIES}
    assert clients == set(lex.CLIENTS)
    assert len(clients) == 16
    for client in clients:
        assert 120 <= sizes[client, "train"] <= 360
        assert sizes[client, "validation"] >= 40
        assert sizes[client, "test"] >= 60
    assert (ALL_FAMILIES, "train") not in sizes
    per_family = Counter((row["family"], row["split"]) for row in rows if row["client"] == ALL_FAMILIES)
    assert len(FAMILIES) >= 10
    for family in FAMILIES:
        assert per_family[family, "test"] == 40
        assert per_family[family, "validation"] == 20


def test_every_client_is_skewed_towards_its_own_families() -> None:
    for seed in SEEDS:
        mains = main_families(seed)
        held = Counter(family for families in mains.values() for family in families)
        assert set(held) == set(FAMILIES)
        assert max(held.values()) - min(held.values()) <= 2
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for row in generated(seed):
            if row["split"] == "train":
                counts[row["client"]][row["family"]] += 1
        for client, families in mains.items():
            assert len(set(families)) == 3
            assert sum(mixture(families).values()) == pytest.approx(1.0)
            size = sum(counts[client].values())
            assert sum(counts[client][family] for family in families) / size > 0.8
            assert 0.3 < counts[client][families[0]] / size < 0.6


def test_house_style_is_two_training_wordings_a_family() -> None:
    for family in FAMILIES:
        patterns = [slotted(wording) for wording in wordings(family, "train")]
        used: dict[str, set[int]] = defaultdict(set)
        for row in generated(0):
            if row["family"] == family and row["split"] == "train":
                fits = [at for at, pattern in enumerate(patterns) if pattern.fullmatch(row["prompt"])]
                assert len(fits) == 1, row
                used[row["client"]].update(fits)
        assert all(len(styles) <= 2 for styles in used.values())
        assert len(set().union(*used.values())) >= 5


def slotted(wording: str) -> re.Pattern[str]:
    return re.compile(
        "".join(".+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", wording))
    )


def test_wordings_of_the_splits_are_disjoint() -> None:
    for family in FAMILIES:
        parts = [wordings(family, split) for split in ("train", "validation", "test")]
        assert [len(part) for part in parts] == [6, 1, 2]
        assert len(set().union(*parts)) == 9


def test_no_prompt_is_shared_between_splits(rows: list[Row]) -> None:
    prompts = {
        split: {row["prompt"] for row in rows if row["split"] == split} for split in ("train", "validation", "test")
    }
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["validation"] & prompts["test"]


def test_the_common_test_set_repeats_no_prompt(rows: list[Row]) -> None:
    prompts = [row["prompt"] for row in rows if row["client"] == ALL_FAMILIES and row["split"] == "test"]
    assert len(prompts) == len(set(prompts))


# For each family, the values by which a prompt is held out, read back from the prompt alone.
def sums(row: Row) -> list[str]:
    one, two = numbers(row)
    return [f"{one}+{two}", f"{two}+{one}"]


def words_from(*pools: object) -> object:
    pool = set(pools[0])  # type: ignore[call-overload]
    return lambda row: [word for word in re.findall(r"[A-Za-z]+", row["prompt"]) if word in pool]


VALUES = {
    "units": lambda row: [f"{numbers(row)[0]} {large}" for large, small, *_ in lex.UNITS
                          if f"{numbers(row)[0]} {large}" in row["prompt"] and small in words_of(row)],
    "dates": lambda row: ["-".join(re.findall(r"\d{4}-(\d\d)-(\d\d)", row["prompt"])[0])],
    "weekday": lambda row: [f"{lex.DAYS.index(day)}+{numbers(row)[0]}"
                            for day in re.findall("|".join(lex.DAYS), row["prompt"])],
    "sentiment": words_from([word for words in lex.SENTIMENTS.values() for word in words]),
    "topic": words_from([word for words in lex.TOPICS.values() for word in words]),
    "extraction": lambda row: [row["response"]],
    "comparison": lambda row: ["<".join(map(str, sorted(numbers(row))))],
    "rewriting": words_from([present for present, _ in lex.VERBS]),
    "sorting": lambda row: [row["response"]],
    "counting": lambda row: [", ".join(listed(row))],
    "triage": lambda row: [symptom for symptoms in lex.TRIAGE.values() for symptom in symptoms
                           if symptom in row["prompt"]],
}  # fmt: skip


@pytest.mark.parametrize("family", sorted(VALUES))
def test_held_out_values_are_in_the_test_rows_and_only_there(family: str) -> None:
    tested, trained = set(), set()
    for row in generated(0):
        if row["family"] == family:
            values = VALUES[family](row)
            assert values, row
            assert all(is_held_out(family, value) == (row["split"] == "test") for value in values), row
            (tested if row["split"] == "test" else trained).update(values)
    assert tested
    assert trained
    assert not tested & trained


def test_the_share_of_held_out_values_is_about_a_fifth() -> None:
    held = [is_held_out("any", str(value)) for value in range(5_000)]
    assert 0.17 < sum(held) / len(held) < 0.23


def test_every_label_is_tested(rows: list[Row]) -> None:
    labels = defaultdict(set)
    for row in rows:
        if row["client"] == ALL_FAMILIES and row["split"] == "test":
            labels[row["family"]].add(row["response"])
    assert labels["triage"] == set(lex.TRIAGE)
    assert labels["topic"] == set(lex.TOPICS)
    assert labels["sentiment"] == {"positive", "negative", "mixed"}
    assert labels["category"] == set(lex.CATEGORIES)


def test_the_prompt_does_not_hold_the_answer(rows: list[Row]) -> None:
    for row in rows:
        if row["family"] not in COPIED:
            answer = re.escape(row["response"])
            assert not re.search(rf"(?<!\w){answer}(?!\w)", row["prompt"], re.IGNORECASE), row


def answer_again(row: Row) -> str:
    """Compute the response from the prompt alone, in another way than the generator."""
    family, prompt, values = row["family"], row["prompt"], numbers(row)
    words = re.findall(r"[A-Za-z]+", prompt)
    if family == "arithmetic":
        return str(sum(values))
    if family == "subtraction":
        return str(max(values) - min(values))
    if family == "comparison":
        return str(max(values))
    if family == "sorting":
        return ", ".join(map(str, sorted(values)))
    if family == "dates":
        found = re.search(r"\d{4}-\d\d-\d\d", prompt)
        assert found is not None
        day = datetime.date.fromisoformat(found.group())
        return f"{day.day} {day:%B} {day.year}"
    if family == "weekday":
        start = next(index for index in range(7) if f"{datetime.date(2024, 1, 1 + index):%A}" in prompt)
        return f"{datetime.date(2024, 1, 1 + start) + datetime.timedelta(values[0]):%A}"
    if family == "counting":
        return str(len(listed(row)))
    if family == "units":
        names = [word for word in words if any(word in unit[:2] for unit in lex.UNITS)]
        factor = next(unit[2] for unit in lex.UNITS if set(unit[:2]) == set(names))
        return str(values[0] * factor)
    if family == "opposite":
        pairs = {one: two for pair in lex.OPPOSITES for one, two in (pair, pair[::-1])}
        return pairs[next(word for word in words if pairs.get(word) == row["response"])]
    if family == "rewriting":
        verb = next(word for word in words if word in dict(lex.VERBS))
        sentence = re.search(rf"the \w+ {verb} the \w+\.", prompt)
        assert sentence is not None
        return sentence.group().replace(verb, dict(lex.VERBS)[verb])
    if family == "extraction":
        pools = {"person": lex.NAMES, "city": lex.CITIES, "item": lex.ITEMS}
        role = next(role for role in pools if role in words)
        return next(word for word in words if word in pools[role])
    if family == "sentiment":
        signs = {sign for sign, pool in lex.SENTIMENTS.items() for word in words if word in pool}
        return signs.pop() if len(signs) == 1 else "mixed"
    pools_of = {"topic": lex.TOPICS, "category": lex.CATEGORIES, "triage": lex.TRIAGE}[family]
    found_in = {label for label, pool in pools_of.items() for entry in pool if re.search(rf"\b{entry}\b", prompt)}
    assert row["response"] in found_in
    return row["response"]


def test_answers_are_correct(rows: list[Row]) -> None:
    for row in rows:
        assert answer_again(row) == row["response"], row


@pytest.mark.parametrize("pools", [lex.SENTIMENTS, lex.TOPICS, lex.TRIAGE, lex.CATEGORIES])
def test_a_word_belongs_to_one_label(pools: dict[str, tuple[str, ...]]) -> None:
    every = [entry for pool in pools.values() for entry in pool]
    assert len(every) == len(set(every))


def test_opposites_are_unambiguous() -> None:
    every = [word for pair in lex.OPPOSITES for word in pair]
    assert len(every) == len(set(every))


def test_lengths_in_pocket_tokens(rows: list[Row]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts = [f"<|user|> {row['prompt']}<|assistant|> {row['response']}<|end|>" for row in rows]
    lengths = [len(code.ids) for code in tokenizer.encode_batch_fast(texts)]
    assert max(lengths) <= 64
    assert sum(lengths) / len(lengths) < 36
