"""Sources with a section of their own: fields, instruction, client's name, upper bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.data import allocate
from fedloom.data.allocation import Allocation
from fedloom.data.sources import locate, read_locations
from fedloom.errors import UserError
from fedloom.recipe import Recipe, parse_recipe, recipe_yaml, validate_recipe
from fedloom.recipe.data_schema import SourceConfig

Write = Callable[..., Path]
SENTIMENT = "What is the sentiment of this news?"


def recipe(source: object, **data: Any) -> Recipe:
    section = {"source": source, "template": "plain", "partition": {"kind": "files"}, **data}
    return validate_recipe({"data": section, "federation": {"clients_per_round": 1}})


def exchanges(allocation: Allocation) -> Counter[tuple[str | None, str, str, str]]:
    """Owner, prompt, context and answer of every example."""
    return Counter(
        (one.owner, one.content[0].content, one.content[0].context, one.content[-1].content)
        for one in allocation.examples
    )


@pytest.fixture
def domains(write_lines: Write) -> list[dict[str, Any]]:
    code = [{"instruction": f"write {n}", "input": "", "output": f"print({n})"} for n in range(6)]
    sums = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(8)]
    news = [{"text": f"shares rise {n} %", "label": "positive"} for n in range(10)]
    return [
        {
            "path": str(write_lines(code, "code.jsonl")),
            "fields": {"prompt": "instruction", "context": "input", "response": "output"},
        },
        {
            "path": str(write_lines(sums, "gsm.jsonl")),
            "name": "mathematics",
            "fields": {"prompt": "question", "response": "answer"},
        },
        {
            "path": str(write_lines(news, "news.jsonl")),
            "name": "finance",
            "fields": {"prompt": "text", "response": "label"},
            "instruction": SENTIMENT,
            "examples": 4,
        },
    ]


def test_every_source_is_read_with_its_own_fields(domains: list[dict[str, Any]]) -> None:
    made = recipe(domains)
    found = exchanges(allocate(made))
    assert Counter(owner for owner, *_ in found.elements()) == {"code": 6, "mathematics": 8, "finance": 4}
    assert found["code", "write 3", "", "print(3)"] == 1
    assert found["mathematics", "3 + 1?", "", "4"] == 1
    finance = [one for one in found if one[0] == "finance"]
    assert all((prompt, answer) == (SENTIMENT, "positive") for _, prompt, _, answer in finance)
    assert all(context.startswith("shares rise") for _, _, context, _ in finance)
    # What the run directory holds reads the same.
    assert exchanges(allocate(parse_recipe(recipe_yaml(made)))) == found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(examples=st.integers(1, 14), seed=st.integers(0, 3), others=st.booleans())
def test_a_draw_is_a_part_in_order_and_depends_on_nothing_else(
    write_lines: Write, examples: int, seed: int, others: bool
) -> None:
    path = write_lines([{"n": n} for n in range(12)])
    beside = [str(write_lines([{"n": -1}], "other.jsonl"))] if others else []
    section = SourceConfig(path=str(path), examples=examples)

    def drawn(sources: list[Any], seed: int) -> list[int]:
        return [record.values["n"] for record in read_locations(locate(sources), seed) if record.values["n"] >= 0]

    found = drawn([*beside, section], seed)
    assert found == sorted(set(found))
    assert len(found) == min(examples, 12)
    assert found == drawn([section], seed)


def test_draws_differ_between_seeds(write_lines: Write) -> None:
    places = locate(SourceConfig(path=str(write_lines([{"n": n} for n in range(50)])), examples=10))
    assert len({tuple(record.position for record in read_locations(places, seed)) for seed in range(5)}) == 5


def test_an_upper_bound_holds_for_a_folder_as_a_whole(write_lines: Write, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_lines([{"n": n} for n in range(5)], f"folder/{name}.jsonl")
    assert len(read_locations(locate(SourceConfig(path=str(tmp_path / "folder"), examples=7)), 0)) == 7


def test_sources_of_one_name_are_one_client(write_lines: Write) -> None:
    rows = [{"prompt": str(n), "response": "x"} for n in range(3)]
    paths = [str(write_lines(rows, name)) for name in ("a.jsonl", "b.jsonl", "north.jsonl")]
    sources = [{"path": paths[0], "name": "north"}, {"path": paths[1], "name": "north"}, paths[2]]
    owners = Counter(owner for owner, *_ in exchanges(allocate(recipe(sources))).elements())
    # A file that happens to be called so is somebody else's.
    assert owners == {"north": 6, "north-2": 3}


def test_a_record_without_its_text_is_left_out_whatever_the_instruction(write_lines: Write) -> None:
    rows = [{"prompt": text, "response": "x"} for text in ("a", " ", "b", "c")]
    allocation = allocate(recipe({"path": str(write_lines(rows)), "instruction": SENTIMENT}))
    assert len(allocation.examples) == 3
    assert allocation.dropped == {"rows": Counter({"empty prompt": 1})}


def test_a_global_test_of_its_own_has_the_general_fields(domains: list[dict[str, Any]], write_lines: Write) -> None:
    test = write_lines([{"q": "2 + 2?", "a": "4"}], "test.jsonl")
    made = recipe(domains, fields={"prompt": "q", "response": "a"}, global_test={"source": str(test)})
    assert exchanges(allocate(made))[None, "2 + 2?", "", "4"] == 1


def test_a_field_that_is_missing_is_told_with_the_source_that_lacks_it(domains: list[dict[str, Any]]) -> None:
    domains[1]["fields"]["response"] = "answr"
    with pytest.raises(UserError, match=r"data\.source\.1\.fields\.response: .*gsm\.jsonl:1 has no field 'answr'"):
        allocate(recipe(domains))
