"""The judge's prompts, what is read from its words, and mistakes in the options that name it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import UserError
from fedloom.suites.judge.config import SETTINGS, judge_config
from fedloom.suites.judge.grading import standing_of
from fedloom.suites.judge.prompts import OURS, Role, load_prompts, places_of, values_of
from fedloom.suites.judge.verdicts import read_harm, read_rating, read_refusal, read_winner

ROLES = {
    Role(kind, reference, turns) for kind in ("single", "pairwise") for reference in (False, True) for turns in (1, 2)
}
OURS_READ = load_prompts()


def texts(role: Role) -> dict[str, str]:
    return {place: f"<{place}> {{question}} {{{{x}}}}" for place in places_of(role)}


def test_every_role_has_a_prompt_of_ours_that_shows_the_judge_everything() -> None:
    ours = load_prompts()
    assert set(ours) == ROLES | {Role("refusal"), Role("harm")}
    for role, prompt in ours.items():
        system, user = prompt.messages(texts(role))
        assert (system["role"], user["role"]) == ("system", "user")
        # What is put in is not looked at again.
        assert all(text in user["content"] for text in texts(role).values())


def test_fastchats_file_takes_the_place_of_ours_and_reads_as_fastchat_reads_it(shared: Path) -> None:
    file = shared / "data" / "eval" / "judge_prompts.jsonl"
    theirs = {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}
    prompts = load_prompts(str(file))
    assert {prompt.name for prompt in prompts.values()} == {*theirs, "refusal", "harm"}
    for role in ROLES:
        prompt = prompts[role]
        values = values_of(role, ["q1", "q2"][: role.turns], *_sides(role))
        named = {place: values[place] for place in places_of(role)}
        assert prompt.messages(values)[-1]["content"] == theirs[prompt.name]["prompt_template"].format(**named)
        assert prompt.messages(values)[0]["content"] == theirs[prompt.name]["system_prompt"].rstrip()


def _sides(role: Role) -> tuple[list[list[str]], list[str] | None]:
    sides = [["a1", "a2"], ["b1", "b2"]][: 2 if role.kind == "pairwise" else 1]
    return [side[: role.turns] for side in sides], ["r1", "r2"][: role.turns] if role.reference else None


@settings(max_examples=50, deadline=None)
@given(answer=st.text())
def test_an_answer_reaches_the_judge_as_it_is(answer: str) -> None:
    prompt = OURS_READ[Role("single")]
    content = prompt.messages({"question": "Q", "answer": answer})[-1]["content"]
    before, after = prompt.messages({"question": "Q", "answer": "\0"})[-1]["content"].split("\0")
    assert content == before + answer + after


def entry(**changes: Any) -> dict[str, Any]:
    values = {"name": "n", "type": "single", "system_prompt": "", "prompt_template": "{question} {answer}"}
    return {**values, **changes}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([entry(type="singel")], "'singel' is not one of: single, pairwise, refusal, harm .did you mean 'single'"),
        ([entry(prompt_template="{qestion} {answer}")], "'qestion' is not one of.*did you mean 'question'"),
        ([entry(prompt_template="{question}")], "lacks the place {answer}"),
        ([entry(prompt_template="{question} {answer_a}", type="pairwise")], "lacks the place {answer_b}"),
        ([entry(prompt_template="{question} {answer} {answer_a}")], "{answer_a} does not go with type single"),
        (
            [entry(prompt_template="{question} {answer} {ref_answer_1}", type="harm")],
            "sees one question and one answer",
        ),
        ([entry(), entry(name="m")], "'n' and 'm' are for the same: type single, without a reference"),
        ([{"name": "n"}], "expected the keys name, type, system_prompt, prompt_template"),
        ({}, "expected a list of prompts"),
    ],
)
def test_mistakes_in_a_file_of_prompts(content: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=told) as error:
        load_prompts(str(path))
    assert "--judge-prompts: mine.yaml" in str(error.value)


def test_a_file_of_prompts_that_is_not_there_or_of_another_form(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--judge-prompts: no such file"):
        load_prompts(str(tmp_path / "none.yaml"))
    path = tmp_path / "prompts.txt"
    path.write_text("x")
    with pytest.raises(UserError, match=r"neither \.yaml nor \.jsonl"):
        load_prompts(str(path))


def test_a_prompt_of_a_users_own_and_ours_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump([entry(prompt_template="Grade {answer} to {question}, e.g. {{n}}.")]))
    prompts = load_prompts(str(path))
    values = {"question": "why", "answer": "so"}
    assert prompts[Role("single")].messages(values) == [{"role": "user", "content": "Grade so to why, e.g. {n}."}]
    assert prompts[Role("pairwise")] == load_prompts()[Role("pairwise")]
    assert len(yaml.safe_load(OURS.read_text())) == len(prompts)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[5]]", 5.0),
        ("It says [[10]] of itself. Rating: [[3.5]]", 3.5),
        ("Rating: [7]", 7.0),
        ("see [1]. Rating: [[9]]", 9.0),
        ("Rating: 7", None),
        ("Rating: [[0]]", None),
        ("Rating: [[11]]", None),
        ("Rating: [[-3]]", None),
        ("Rating: [[rating]]", None),
        ("", None),
    ],
)
def test_ratings_that_are_read(text: str, rating: float | None) -> None:
    assert read_rating(text) == rating


def test_winners_and_classes_that_are_read() -> None:
    assert [read_winner(text) for text in ("[[A]]", "not [[A]] but [[B]]", "[[C]]", "A", "[[D]]", "")] == [
        *("A", "B", "C"),
        *(None, None, None),
    ]
    assert [read_refusal(text) for text in ("[[complied]]", "[[partly]]", "refused")] == ["complied", "partly", None]
    assert [read_harm(text) for text in ("[[harmful]]", "[[harmless]]", "[[harm]]")] == ["harmful", "harmless", None]


@pytest.mark.parametrize("as_a", ["A", "B", "C", None])
@pytest.mark.parametrize("as_b", ["A", "B", "C", None])
def test_a_winner_wins_in_both_orders(as_a: str | None, as_b: str | None) -> None:
    found = standing_of(as_a, as_b)
    assert found == {("A", "B"): "win", ("B", "A"): "loss"}.get((as_a, as_b), None if None in (as_a, as_b) else "tie")
    # Seen from the other side, what was A was B.
    assert standing_of(as_b, as_a) == {"win": "loss", "loss": "win"}.get(found, found)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "localhost:8000", "model": "m"}, "--judge: 'localhost:8000' is not an address that begins with http"),
        ({"url": "http://x:99999/v1", "model": "m"}, "--judge: .* is not an address"),
        ({"url": "http://me:secret@host/v1", "model": "m"}, "--judge: the address must hold no key or password"),
        ({"url": "http://host/v1?key=secret", "model": "m"}, "--judge: the address must hold no key or password"),
        ({"url": "http://host/v1"}, "--judge-model: is required with --judge"),
        ({"url": "http://host/v1", "model": ""}, "--judge-model: "),
        ({"model": "m"}, "--judge-model: has no effect without --judge URL"),
        ({"settings": ["a=1"]}, "--judge-setting: has no effect without --judge URL"),
        ({"timeout": 3.0}, "--judge-timeout: has no effect without --judge URL"),
        ({"url": "http://host/v1", "model": "m", "settings": ["max_tokens"]}, "--judge-setting 'max_tokens': expected"),
        ({"url": "http://host/v1", "model": "m", "settings": ["n=2"]}, "--judge-setting: n is not a setting"),
        ({"url": "http://host/v1", "model": "m", "concurrency": 0}, "--judge-concurrency: 0 is not a number from 1"),
        ({"url": "http://host/v1", "model": "m", "timeout": 0.0}, "--judge-timeout: 0.0 is not a number above 0"),
        ({"url": "http://host/v1", "model": "m", "prompt_price": 1.0}, "--judge-completion-price: give both"),
        ({"url": "http://host/v1", "model": "m", "key_variable": "NOT_SET_HERE"}, "NOT_SET_HERE is not set"),
    ],
)
def test_mistakes_in_the_options_of_a_judge(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        judge_config(**{"url": None, "model": None, **options})
    assert "secret" not in str(error.value)


def test_options_of_a_judge() -> None:
    assert judge_config(None, None, timeout=None) is None
    for url in ("http://host:1/v1", "http://host:1/v1/", "http://host:1/v1/chat/completions"):
        config = judge_config(url, "m", ["temperature=null", "seed=3"])
        assert config is not None
        assert config.url == "http://host:1/v1"
        assert config.settings == {"max_tokens": SETTINGS["max_tokens"], "seed": 3}
