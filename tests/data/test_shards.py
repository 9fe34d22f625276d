from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.data.names import Names
from fedloom.data.shard_files import ShardContents, open_shards, write_shards
from fedloom.data.shards import ExampleArrays, ExampleSet, count_labels, reorder

TOKENS = [[1, 2, 3], [4], [5, 6]]
TRAINED = [[True, False, True], [True], [False, True]]


def test_example_set_views() -> None:
    examples = ExampleSet.from_examples(TOKENS, TRAINED, ["a", "b", "a"])
    assert examples.lengths.tolist() == [3, 1, 2]
    assert examples.label_counts.tolist() == [1, 0, 1]
    assert [examples.tokens(n).tolist() for n in range(3)] == TOKENS
    assert [examples.trained(n).tolist() for n in range(3)] == TRAINED
    assert examples.tokens(0).dtype == np.int64
    assert examples.trained(0).dtype == np.bool_
    chosen = examples.subset([2, 0, 2])
    assert [chosen.tokens(n).tolist() for n in range(len(chosen))] == [[5, 6], [1, 2, 3], [5, 6]]
    assert chosen.categories == ["a", "a", "a"]
    joined = ExampleSet.concatenate([chosen, examples])
    assert joined.lengths.tolist() == [2, 3, 2, 3, 1, 2]
    assert ExampleSet.from_examples(TOKENS, TRAINED).categories is None
    assert len(examples.subset([])) == 0


def test_only_views_of_the_same_data_are_joined() -> None:
    one, other = (ExampleSet.from_examples(TOKENS, TRAINED) for _ in range(2))
    with pytest.raises(ValueError, match="same stored data"):
        ExampleSet.concatenate([one, other])
    with pytest.raises(ValueError, match="nothing"):
        ExampleSet.concatenate([])


@settings(max_examples=40, deadline=None)
@given(names=st.sets(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_names_behave_like_a_sorted_list(names: set[str]) -> None:
    plain = sorted(names)
    text = [name.encode() for name in plain]
    stored = Names(
        np.frombuffer(b"".join(text), dtype=np.uint8),
        np.cumsum([0, *map(len, text)], dtype=np.int64),
    )
    assert list(stored) == plain
    assert [stored.find(name) for name in plain] == list(range(len(plain)))
    assert "not there \x00\x01" not in stored
    assert stored[1:3] == plain[1:3]
    if plain:
        assert stored[-1] == plain[-1]
    with pytest.raises(IndexError):
        stored[len(plain)]


def contents(tokens: list[list[int]]) -> ShardContents:
    offsets = np.cumsum([0, *map(len, tokens)]).astype(np.int64)
    flat = np.array([token for one in tokens for token in one], dtype=np.int64)
    trained = np.ones(len(flat), dtype=np.uint8)
    return ShardContents(
        examples=ExampleArrays(flat, trained, offsets, count_labels(trained, offsets)),
        clients=["a", "ä"],
        unseen=["b"],
        bounds=np.array([[0, 1, 1, 1], [1, 2, 2, 2], [2, 2, 2, 3]], dtype=np.int64),
        global_bounds=np.array([3, 3, 3], dtype=np.int64),
        key_codes=np.full(3, -1, dtype=np.int32),
        key_values=[],
        meta={"fact": 1},
    )


@pytest.mark.parametrize(("vocabulary", "width"), [(65_536, "uint16"), (65_537, "uint32")])
def test_stored_and_opened_again(tmp_path: Path, vocabulary: int, width: str) -> None:
    tokens = [[0, vocabulary - 1], [5, 6, 7], [8, 9]]
    write_shards(tmp_path / "s", contents(tokens), vocabulary)
    opened = open_shards(tmp_path / "s")
    assert opened.examples.tokens.dtype == width
    assert (list(opened.clients), list(opened.unseen)) == (["a", "ä"], ["b"])
    assert opened.meta["fact"] == 1
    examples = ExampleSet(opened.examples, opened.range_of(2, "test"))
    assert examples.tokens(0).tolist() == [8, 9]
    everything = ExampleSet(opened.examples, np.arange(3))
    assert [everything.tokens(n).tolist() for n in range(3)] == tokens
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_second_writer_leaves_the_first_ones_copy(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", contents([[1, 2], [3, 4], [5, 6]]), 100)
    write_shards(tmp_path / "s", contents([[7, 7], [7, 7], [7, 7]]), 100)
    assert open_shards(tmp_path / "s").examples.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(3)))
def test_reordering(order: list[int]) -> None:
    made = ExampleSet.from_examples(TOKENS, TRAINED, ["a", "b", "c"])
    moved = reorder(made._arrays, np.array(order))
    again = ExampleSet(moved, np.arange(3))
    assert [again.tokens(n).tolist() for n in range(3)] == [TOKENS[n] for n in order]
    assert [again.trained(n).tolist() for n in range(3)] == [TRAINED[n] for n in order]
    assert again.label_counts.tolist() == made.label_counts[order].tolist()
    assert again.categories == [["a", "b", "c"][n] for n in order]
