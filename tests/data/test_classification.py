"""Labelled texts from records to shards: classes, tokens, the place at which a class is read."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoTokenizer

from fedloom.data import FederatedData, allocate, describe, prepare, render
from fedloom.data.label_tokens import longest_first, tokenize_texts
from fedloom.data.labelled_text import LabelledText
from fedloom.data.shards import ExampleSet
from fedloom.data.text_frame import read_pattern, word_tokens
from fedloom.errors import UserError
from fedloom.recipe import Recipe, validate_recipe
from fedloom.runtime.attack import FlippedClasses
from tests.encoders import TEXTS, tiny_bert, tiny_roberta

Write = Callable[..., Path]
FIELDS = {"text": "text", "label": "label"}
PAIRS = {"text": "one", "pair": "two", "label": "label"}
WORDS = ["it", "was", "a", "great", "film", "and", "terrible", "bad", "good", "story"]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tiny_bert(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # Whole words, so that the labels' words are tokens.
    return AutoTokenizer.from_pretrained(tiny_roberta(tmp_path_factory.mktemp("roberta"), TEXTS * 20))


def texts(*pairs: tuple[str, str | None]) -> list[LabelledText]:
    return [LabelledText(one, two, "x", "here") for one, two in pairs]


def ids(
    examples: list[LabelledText], tokenizer: Any, max_tokens: int = 99, pattern: str | None = None
) -> list[list[int]]:
    found = tokenize_texts(
        examples, tokenizer, max_tokens, None if pattern is None else read_pattern(pattern, tokenizer)
    )
    return [found.tokens[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)]


def recipe(
    source: Path, fields: dict[str, str] | None = None, task: dict[str, Any] | None = None, **data: Any
) -> Recipe:
    section = {"source": str(source), "fields": fields or FIELDS, "max_tokens": 32, **data}
    section.setdefault("partition", {"kind": "iid", "clients": 3})
    task = {"kind": "classification", **(task or {})}
    return validate_recipe({"data": section, "task": task, "federation": {"clients_per_round": 2}})


sentences = st.lists(st.sampled_from([*WORDS, ".", ",", "unknowable"]), min_size=1, max_size=25).map(" ".join)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@settings(max_examples=25, deadline=None)
@given(one=sentences, two=st.one_of(st.none(), sentences), max_tokens=st.integers(8, 40))
def test_texts_are_tokenised_as_the_tokenizer_itself_does(
    request: pytest.FixtureRequest, name: str, one: str, two: str | None, max_tokens: int
) -> None:
    tokenizer = request.getfixturevalue(name)
    found = tokenize_texts(texts((one, two)), tokenizer, max_tokens, None)
    given_ = (one,) if two is None else (one, two)
    own = tokenizer(*given_, truncation="longest_first", max_length=max_tokens, return_token_type_ids=True)
    assert found.tokens.tolist() == own["input_ids"]
    assert found.truncated == (len(tokenizer(*given_)["input_ids"]) > max_tokens)
    if name == "bert" and two is not None:
        assert found.token_types is not None
        assert found.token_types.tolist() == own["token_type_ids"]
    else:
        assert found.token_types is None
    assert found.places is None
    assert not found.trained.any()


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 60))
def test_the_longer_text_is_cut_first(first: int, second: int, room: int) -> None:
    kept = longest_first(first, second, room)
    assert sum(kept) == min(first + second, room)
    assert kept[0] <= first
    assert kept[1] <= second
    if kept[0] < first and kept[1] < second:
        assert abs(kept[0] - kept[1]) <= 1


def test_a_decoder_reads_a_pair_on_two_lines(tokenizer: Any) -> None:
    assert ids(texts(("a b", "cd")), tokenizer) == [tokenizer("a b\ncd")["input_ids"]]
    assert ids(texts(("abc", None)), tokenizer) == [tokenizer("abc")["input_ids"]]
    # <s>, line feed, and two letters of each.
    assert ids(texts(("abcdef", "ghijk")), tokenizer, 6) == [tokenizer("ab\ngh")["input_ids"]]


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("pattern", ["{text} It was {mask}.", "{mask} film: {text}", "a {text} was {mask} and {pair}."])
def test_a_pattern_is_tokenised_as_the_written_text(request: pytest.FixtureRequest, name: str, pattern: str) -> None:
    tokenizer = request.getfixturevalue(name)
    one, two = "it has an end", "the cast is good" if "{pair}" in pattern else None
    read = read_pattern(pattern, tokenizer)
    found = tokenize_texts(texts((one, two)), tokenizer, 99, read)
    # White space before the mask is the word's: RoBERTa's mask token takes it, BERT has no use for it.
    written = pattern.replace("{text}", one).replace("{pair}", two or "").replace(" {mask}", "{mask}")
    written = written.replace("{mask}", tokenizer.mask_token)
    assert found.tokens.tolist() == tokenizer(written)["input_ids"]
    assert found.places is not None
    assert found.tokens[found.places].tolist() == [tokenizer.mask_token_id]
    assert found.token_types is None


def test_a_causal_model_is_asked_for_the_next_token(tokenizer: Any) -> None:
    pattern = read_pattern("{text} is: {mask}", tokenizer)
    found = tokenize_texts(texts(("abc", None)), tokenizer, 99, pattern)
    assert found.tokens.tolist() == tokenizer("abc is:")["input_ids"]
    assert found.places is not None
    assert found.places.tolist() == [len(found.tokens) - 1]
    with pytest.raises(UserError, match=r"task.pattern: '\{mask\}: \{text\}': this tokenizer has no mask token"):
        read_pattern("{mask}: {text}", tokenizer)
    # One token a byte: the space before the word is one of its own.
    with pytest.raises(UserError, match="'a' is not one token after 'x is: ': Ġ a"):
        word_tokens(["a", "b"], pattern, tokenizer)
    assert (
        word_tokens(["a", "b"], read_pattern("{text} is:{mask}", tokenizer), tokenizer)
        == tokenizer("ab", add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("max_tokens", range(9, 14))
def test_what_is_cut_is_text_and_never_the_pattern(bert: Any, max_tokens: int) -> None:
    pattern = read_pattern("{text} it was {mask} .", bert)
    [whole] = ids(texts(("the cast is good fun", None)), bert, 99, "{text} it was {mask} .")
    found = tokenize_texts(texts(("the cast is good fun", None)), bert, max_tokens, pattern)
    around = len(ids(texts(("the", None)), bert, 99, "{text} it was {mask} .")[0]) - len(
        bert("the", add_special_tokens=False)["input_ids"]
    )
    kept = min(max_tokens, len(whole)) - around
    assert found.tokens.tolist() == whole[: 1 + kept] + whole[1 + len(whole) - around :]
    assert found.places is not None
    assert found.tokens[found.places[0]] == bert.mask_token_id


def test_words_stand_with_the_space_before_them(roberta: Any, bert: Any) -> None:
    pattern = read_pattern("{text} It was {mask}.", roberta)
    tokens = word_tokens(["great", "terrible"], pattern, roberta)
    assert roberta.convert_ids_to_tokens(tokens) == ["Ġgreat", "Ġterrible"]
    tokens = word_tokens(["great", "terrible"], read_pattern("{text} It was {mask}.", bert), bert)
    assert bert.convert_ids_to_tokens(tokens) == ["great", "terrible"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["great", "greatest"], "task.words.1: 'greatest' is not one token after 'x it was ': great"),
        (["great", "émigré!?"], "task.words.1: 'émigré!?' is not one token"),
        (["great", "\N{SNOWMAN}"], "task.words.1: '\N{SNOWMAN}' is unknown to the tokenizer"),
        (["great", "Great"], "task.words.1: 'Great' is the same token as 'great'"),
    ],
)
def test_words_that_are_no_token_of_their_own_are_refused(bert: Any, words: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        word_tokens(words, read_pattern("{text} it was {mask}", bert), bert)
    assert told in str(error.value)


def test_control_tokens_that_a_record_spells_out_stay_text(bert: Any) -> None:
    found = tokenize_texts(texts(("good [MASK] film [SEP]", "[CLS] bad")), bert, 99, None)
    special = Counter(token for token in found.tokens.tolist() if token in bert.all_special_ids)
    assert special[bert.mask_token_id] == 0
    assert (special[bert.cls_token_id], special[bert.sep_token_id]) == (1, 2)
    assert found.spelt_out == 1


def test_a_pattern_without_room_for_a_text_is_refused(bert: Any) -> None:
    long = " ".join(["it was a great film"] * 3) + " {mask} {text}"
    with pytest.raises(UserError, match=r"data.max_tokens: 8 leaves no room for a text"):
        ids(texts(("good", None)), bert, 8, long)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, 10, 9], ["9", "10"]),
        (["10", "9", 9.0, 10], ["9", "10"]),
        ([True, False] * 2, ["false", "true"]),
        (["pos", " neg", "pos ", "neg"], ["neg", "pos"]),
        (["10", "9", "x", "x"], ["10", "9", "x"]),
    ],
)
def test_classes_are_the_values_found_sorted(write_lines: Write, values: list[Any], labels: list[str]) -> None:
    path = write_lines([{"text": f"t{n}", "label": value} for n, value in enumerate(values)])
    made = recipe(path, partition={"kind": "iid", "clients": 2})
    assert allocate(made).labels == labels


def test_labels_and_texts_that_are_not_there(write_lines: Write, bert: Any, tmp_path: Path) -> None:
    rows = [{"one": f"good {n}", "two": "film", "label": "no" if n % 2 else "yes"} for n in range(20)]
    rows += [{"one": "a", "two": "film", "label": None}, {"one": " ", "two": "film", "label": "no"}]
    rows += [{"one": "a", "two": "", "label": "no"}, {"one": "a", "two": "film", "label": ""}]
    path = write_lines(rows)
    data = prepare(recipe(path, PAIRS), bert, tmp_path / "s")
    assert data.dropped == {"no label": 2, "empty text": 1, "empty second text": 1}
    assert sum(data.totals().values()) == 20
    assert data.labels == ["no", "yes"]
    with pytest.raises(
        UserError, match=r"task.labels: .*rows.jsonl:\d+, label: 'yes' is not one of: no, yess .*'yess'"
    ):
        allocate(recipe(path, PAIRS, {"labels": ["no", "yess"]}))
    with pytest.raises(UserError, match=r"data.fields.label: .* has no field 'lable'"):
        allocate(recipe(path, {**PAIRS, "label": "lable"}))
    with pytest.raises(UserError, match=r"data.fields.label: every record has the label 'film'"):
        allocate(recipe(path, {**PAIRS, "label": "two"}))
    words = {"head": "label_words", "words": ["a", "film", "good"], "pattern": "{text} {mask} {pair}"}
    with pytest.raises(UserError, match=r"task.words: 3 words for 2 labels: no, yes"):
        prepare(recipe(path, PAIRS, words), bert, tmp_path / "s")


def stored(data: FederatedData) -> list[ExampleSet]:
    names = [*data.clients, *data.unseen]
    sets = [data.examples(name, split) for name in names for split in ("train", "validation", "test")]
    common = data.global_examples()
    return [*sets, *([common] if common is not None else [])]


@pytest.mark.parametrize(
    "task", [{}, {"head": "label_words", "words": ["bad", "good"], "pattern": "{text} {mask} {pair}"}]
)
def test_shards_hold_what_each_example_is(write_lines: Write, bert: Any, tmp_path: Path, task: dict[str, Any]) -> None:
    # The second text says the class, and the third number how long the first is.
    rows = [{"one": "a " * (1 + n % 5), "two": ("bad", "good")[n % 2], "label": n % 2, "n": n % 3} for n in range(60)]
    made = recipe(
        write_lines(rows), PAIRS, task, global_test={"fraction": 0.2}, category="n", unseen_clients=1,
        partition={"kind": "label_prior", "clients": 4, "key": "label", "min_examples": 6},
    )  # fmt: skip
    data = prepare(made, bert, tmp_path / "s")
    again = prepare(made, bert, tmp_path / "s")
    bad, good = bert("bad good", add_special_tokens=False)["input_ids"]
    assert data.label_words == ([bad, good] if task else [])
    seen = 0
    for one, other in zip(stored(data), stored(again), strict=True):
        assert one.label_counts.tolist() == [1] * len(one)
        for place in range(len(one)):
            tokens, label = one.tokens(place), one.label(place)
            assert not one.trained(place).any()
            assert label == int(good in tokens)
            assert one.labels is not None
            assert one.labels[place] == other.label(place) == label
            if task:
                assert tokens[one.place(place)] == bert.mask_token_id
                assert one.token_types(place) is None
            else:
                assert one.place(place) is None
                own = bert(" ".join(["a"] * (len(tokens) - 4)), ("bad", "good")[label])
                assert one.token_types(place).tolist() == own["token_type_ids"]  # type: ignore[union-attr]
            seen += 1
    assert seen == 60
    assert data.global_examples().categories is not None  # type: ignore[union-attr]
    kept = {path.name for path in next((tmp_path / "s").iterdir()).iterdir()}
    assert {"labels.npy", "places.npy" if task else "token_types.npy"} <= kept
    assert ("token_types.npy" if task else "places.npy") not in kept


def test_other_tasks_store_none_of_it(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    path = write_lines([{"q": f"q{n}", "a": "a"} for n in range(20)])
    data = {"source": str(path), "fields": {"prompt": "q", "response": "a"}, "template": "plain"}
    made = validate_recipe({"data": {**data, "partition": {"kind": "iid", "clients": 4}}})
    prepared = prepare(made, tokenizer, tmp_path / "s")
    examples = prepared.all_examples()
    assert (examples.labels, examples.label(0), examples.place(0), examples.token_types(0)) == (None,) * 4
    assert (prepared.labels, prepared.label_words) == ([], [])
    kept = {path.name for path in next((tmp_path / "s").iterdir()).iterdir()}
    assert not kept & {"labels.npy", "places.npy", "token_types.npy"}


def test_the_task_is_part_of_the_fingerprint(write_lines: Write, bert: Any, tmp_path: Path) -> None:
    path = write_lines([{"text": f"good {n}", "label": n % 2} for n in range(20)])
    tasks = [
        {},
        {"labels": [1, 0]},
        *({"head": "label_words", "words": ["bad", w], "pattern": "{text} {mask}"} for w in ("good", "film")),
    ]
    found = [prepare(recipe(path, task=task), bert, tmp_path / "s") for task in tasks]
    assert len({data.fingerprint for data in found}) == len(tasks)
    one, other = (data.all_examples().labels for data in found[:2])
    assert one is not None
    assert other is not None
    assert (one + other == 1).all()


def test_examples_in_memory_and_with_flipped_classes() -> None:
    examples = ExampleSet.from_examples(
        [[1, 2], [3], [4, 5, 6]], [[False] * 2, [False], [False] * 3], labels=[0, 1, 2], places=[1, 0, 2],
        token_types=[[0, 1], [0], [0, 0, 1]],
    )  # fmt: skip
    assert examples.label_counts.tolist() == [1, 1, 1]
    some = examples.subset([2, 0])
    assert [some.label(0), some.place(0), some.token_types(0).tolist()] == [2, 2, [0, 0, 1]]  # type: ignore[union-attr]
    flipped = FlippedClasses(some, 3)
    assert (flipped.labels.tolist(), flipped.label(0), flipped.label(1)) == ([0, 2], 0, 2)
    assert flipped.tokens(0).tolist() == [4, 5, 6]


def test_what_a_person_is_shown(write_lines: Write, bert: Any, tmp_path: Path) -> None:
    rows = [{"text": "good film", "label": "neg" if n % 4 else "pos"} for n in range(80)]
    data = prepare(recipe(write_lines(rows)), bert, tmp_path / "s")
    described = describe(data)
    assert described["classes"] == {"neg": 60, "pos": 20}
    console = Console(width=100, record=True)
    console.print(render(described))
    text = console.export_text()
    assert "2 classes: neg 60, pos 20; always the most frequent: 75.0 %" in text
    assert "label tokens" not in text
    for row in described["clients"]["rows"]:
        assert list(row["top"]) == ["neg", "pos"]
        assert ", ".join(f"{name} {count}" for name, count in row["top"].items()) in text


REAL = [
    ("sst2", FIELDS, 9613, {"0": 4650, "1": 4963}),
    ("trec", FIELDS, 5952, None),
    ("mrpc", {"text": "sentence1", "pair": "sentence2", "label": "label"}, 5801, {"0": 1901, "1": 3900}),
    ("boolq", {"text": "question", "label": "answer"}, 12697, None),
    ("rte", {"text": "premise", "pair": "hypothesis", "label": "label"}, 2767, None),
]


@pytest.mark.parametrize(("name", "fields", "records", "classes"), REAL, ids=[one[0] for one in REAL])
def test_real_sets(
    shared: Path, bert: Any, tmp_path: Path, name: str, fields: dict[str, str], records: int, classes: dict | None
) -> None:
    made = recipe(
        shared / f"data/classification/{name}.jsonl.gz", fields, max_tokens=48, split={"key": "split"},
        partition={"kind": "label_prior", "clients": 20, "key": fields["label"]},
    )  # fmt: skip
    data = prepare(made, bert, tmp_path)
    described = describe(data)
    assert sum(data.totals().values()) + sum(data.dropped.values()) == records
    assert data.dropped == {}
    if classes is not None:
        assert described["classes"] == classes
    # Each client's test part has its training prior, to whole records.
    for client in data.clients:
        train, test = (data.examples(client, part).labels for part in ("train", "test"))
        if train is None or test is None or not len(test):
            continue
        shares = [np.bincount(one, minlength=len(data.labels)) / len(one) for one in (train, test)]
        assert np.abs(shares[0] - shares[1]).max() < 0.15 + 2 / len(test)


@pytest.mark.parametrize("name", ["gpt2", "pythia"])
def test_real_decoders_read_real_texts_as_they_are_written(shared: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
    with gzip.open(shared / "data/classification/mrpc.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 300)]
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows]
    assert ids(texts(*pairs), tokenizer, 999) == [tokenizer("\n".join(pair))["input_ids"] for pair in pairs]
    pattern = "Review: {text}\nSentiment: {mask}"
    written = [f"Review: {one}\nSentiment:" for one, _ in pairs]
    found = ids(texts(*((one, None) for one, _ in pairs)), tokenizer, 999, pattern)
    assert found == [tokenizer(text)["input_ids"] for text in written]
    words = word_tokens(["terrible", "great"], read_pattern(pattern, tokenizer), tokenizer)
    assert tokenizer.decode(words) == " terrible great"
