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
        ("{clock: {}, wireless: {}}", [f"{PARTICIPATION}: wireless and clock are two models of the same time"]),
        ("{wireless: {}}", [f"{PARTICIPATION}.wireless.scheme: jcpba needs the section local.pruning"]),
        ("{wireless: {scheme: jpcba}}", [f"{PARTICIPATION}.wireless.scheme: 'jpcba'", "did you mean 'jcpba'?"]),
        (
            "{wireless: {scheme: no_pruning_equal_bandwidth, budget: 0.2}}",
            ["budget has no effect with scheme: no_prun"],
        ),
        ("{wireless: {scheme: no_pruning_optimal_bandwidth}, over_selection: 1.3}", ["over_selection has no effect"]),
        (
            "{wireless: {scheme: no_pruning_equal_bandwidth}, availability_trace: trace.csv}",
            ["counts simulated second"],
        ),
        ("{wireless: {scheme: no_pruning_equal_bandwidth, scenario: defualt}}", ["no such file: defualt", "'default'"]),
        (
            "{wireless: {scheme: no_pruning_equal_bandwidth, scenario: {cell: {bandwith_hz: 1e6}}}}",
            [f"{PARTICIPATION}.wireless.scenario.cell.bandwith_hz: unknown key", "did you mean 'bandwidth_hz'?"],
        ),
        (
            "{wireless: {scheme: no_pruning_equal_bandwidth, scenario: {work: {epochs: 2}}}}",
            [f"{PARTICIPATION}.wireless.scenario.work: unknown key", "cell, fading, trace, devices, pruning"],
        ),
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


def test_a_scheme_that_needs_rounds_and_rates_that_a_scheme_hands_out(refused_early: Refused, rows: Path) -> None:
    wireless = f"{PARTICIPATION}.wireless.scheme"
    buffered = "federation.algorithm={name: fedbuff, buffer_size: 2}"
    optimal = f"{wireless}=no_pruning_optimal_bandwidth"
    contains(refused_early(recipe(rows, **SMALL), "--set", optimal, "--set", buffered), wireless, "has none", "equal")
    rated = refused_early(recipe(rows, **SMALL), "--set", f"{wireless}=jcpba", "--set", "local.pruning.rate=0.2")
    contains(rated, "local.pruning.rate has no effect with federation.participation.wireless")
