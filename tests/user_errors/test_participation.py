"""Mistakes in federation.participation end in one clear line, before any weight is read, and leave nothing."""

from pathlib import Path

import pytest

from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains

PARTICIPATION = "federation.participation"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ("{samplin: uniform}", [f"{PARTICIPATION}.samplin: unknown key", "availability_trace", "'sampling'"]),
        ("{sampling: unifrom}", [f"{PARTICIPATION}.sampling: 'unifrom'", "uniform, examples", "'uniform'"]),
        ("uniform", [f"{PARTICIPATION}: 'uniform' is not a section with the keys sampling"]),
        ("{drop_out: 1}", [f"{PARTICIPATION}.drop_out: 1 is not a number below 1"]),
        ("{drop_out: often}", [f"{PARTICIPATION}.drop_out: 'often' is not a number"]),
        ("{clock: {}, deadline: 0}", [f"{PARTICIPATION}.deadline: 0 is not a number above 0"]),
        ("{clock: {}, over_selection: 1}", [f"{PARTICIPATION}.over_selection: 1 is not a number above 1"]),
        ("{clock: {tokens_per_second: 0}}", [f"{PARTICIPATION}.clock.tokens_per_second: 0 is not a number above 0"]),
        ("{clock: {bytes_per_second: 1}}", [f"{PARTICIPATION}.clock.bytes_per_second: unknown key", "upload_bytes"]),
        ("{clock: true}", [f"{PARTICIPATION}.clock: true is not a section with the keys tokens_per_second"]),
        ("{deadline: 60}", [f"{PARTICIPATION}: deadline has no effect without a clock", "add clock"]),
        ("{over_selection: 1.3}", [f"{PARTICIPATION}: over_selection has no effect without a clock"]),
        ("{availability_trace: nothere.csv}", [f"{PARTICIPATION}.availability_trace: no such file: nothere.csv"]),
        ("{availability_trace: rows.jsonl}", ["rows.jsonl:1 has the fields prompt, response, owner, not client, from"]),
        ("{availability_trace: trace.csv}", ["trace.csv:3: 'boo' is no training client", "did you mean 'bo'?"]),
    ],
)
def test_participation(refused_early: Refused, rows: Path, section: str, parts: list[str]) -> None:
    Path("trace.csv").write_text("client,from,to\nada,0,5\nboo,0,5\n")
    contains(refused_early(recipe(rows, **SMALL), "--set", f"{PARTICIPATION}={section}"), *parts)


@pytest.mark.parametrize("section", ["{sampling: examples}", "{clock: {}, over_selection: 1.5}"])
def test_participation_without_effect_where_everybody_is_drawn(
    refused_early: Refused, rows: Path, section: str
) -> None:
    told = refused_early(recipe(rows), "--set", f"{PARTICIPATION}={section}")
    contains(told, "has no effect: all 8 training clients are drawn for every round anyway")
