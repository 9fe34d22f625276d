from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedloom.errors import UserError
from fedloom.report.comparison import write_comparison
from fedloom.report.comparison_record import paired, read_comparison
from fedloom.report.comparison_summary import comparison_summary
from fedloom.report.tuning_section import at_the_edge
from tests.report.comparisons import comparison
from tests.report.pages import Page

EVIL = "<script>alert('x')</script>\"&"


def written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "compare.json").write_text(json.dumps(content))
    return folder


def page_of(folder: Path, content: dict[str, Any]) -> Page:
    return Page(write_comparison(written(folder, content)).read_text(encoding="utf-8"))


def summary_of(folder: Path, content: dict[str, Any]) -> str:
    return comparison_summary(read_comparison(written(folder, content)))


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def test_numbers_on_the_page_are_those_of_the_file(tmp_path: Path) -> None:
    content = comparison()
    page = page_of(tmp_path, content)
    local, centralized = content["baselines"]
    for variant in content["variants"][1:]:
        score, difference = variant["score"], variant["difference"]
        cells = page.row(variant["label"])
        assert cells[0] == f"{percent(score['mean'])} % {percent(score['low'])} to {percent(score['high'])}"
        assert cells[1].startswith(f"{signed(difference['mean'])} points {signed(difference['low'])} to ")
        for cell, baseline in zip(cells[2:4], (local, centralized), strict=True):
            pairs = zip(score["values"], baseline["score"]["values"], strict=True)
            assert cell.startswith(signed(sum(one - other for one, other in pairs) / 3))
    assert page.row("fedavg")[1] == "reference"
    assert len(page.tables[0]) == 1 + 7 + 2
    for expected in ("local.learning_rate", "torch 2.13.0", "federation:\n  rounds: 40", "cells/scaffold/seed-2"):
        assert expected in page.text


def test_page_needs_nothing_from_elsewhere_and_escapes_everything(tmp_path: Path) -> None:
    content = comparison(labels=(EVIL, "south"), failing=(EVIL,))
    content |= {"name": EVIL, "recipe": EVIL, "versions": {EVIL: EVIL}, "varied": [EVIL]}
    content["variants"][0]["runs"][-1]["failed"] = EVIL
    content["variants"][1]["settings"] = {EVIL: EVIL}
    content["variants"][1]["runs"][0]["clients"] = {EVIL: {"accuracy": 0.5, "loss": 1.0}}
    page = page_of(tmp_path, content)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.text.count(EVIL) >= 8
    assert not re.search(r"https?:|//[a-z]|@import|url\(", (tmp_path / "compare.html").read_text())
    for _, attributes in page.tags:
        assert not {"src", "href", "onclick", "onerror"} & set(attributes)
        assert "alert" not in " ".join(attributes)


def test_one_seed_has_no_intervals_and_says_so(tmp_path: Path) -> None:
    content = comparison(labels=("fedavg", "fedprox"), seeds=1, measure="loss", clients=0)
    page = page_of(tmp_path, content)
    assert "One seed: there are no intervals" in page.text
    assert "one seed does not tell whether that is chance" in page.text
    assert page.row("fedprox")[0] == f"{content['variants'][1]['score']['mean']:.3f}"
    assert not any((attributes.get("class") or "").startswith("reach") for _, attributes in page.tags)


def test_unfinished_comparison(tmp_path: Path) -> None:
    page = page_of(tmp_path, comparison(done=2))
    assert "Not finished: 6 of 27 runs done" in page.text
    assert page.row("fedadam")[0] == page.row("local")[0] == "not yet"
    page = page_of(tmp_path, comparison(done=0))
    assert "No variant has been evaluated yet." in page.text


def test_failed_run_is_named_with_its_reason(tmp_path: Path) -> None:
    page = page_of(tmp_path, comparison(failing=("fedyogi",)))
    assert page.row("fedyogi")[0].endswith("(2 of 3 seeds)")
    assert page.row("fedyogi", table=1)[0] == "seed 2"
    assert "is not a finite number" in page.row("fedyogi", table=1)[1]


def test_of_many_variants_the_reference_and_the_best_are_switched_on(tmp_path: Path) -> None:
    content = comparison(labels=tuple(f"variant {number}" for number in range(40)), clients=0)
    page = page_of(tmp_path, content)
    boxes = {attributes["data-name"]: "checked" in attributes for tag, attributes in page.tags if tag == "input"}
    best = max(content["variants"], key=lambda one: one["score"]["mean"])["label"]
    assert len(boxes) == 42
    assert sum(boxes.values()) == 8 + 2
    assert boxes["variant 0"]
    assert boxes[best]
    assert "are not widened for 40 variants" in page.text
    assert "How evenly" not in page.text


def scores(*seeds: tuple[float, float]) -> dict[str, Any]:
    """Two variants whose scores in every seed are given."""
    content = comparison(labels=("fedavg", "fedprox"), seeds=len(seeds), tuned=False)
    for place, variant in enumerate(content["variants"]):
        values = [pair[place] for pair in seeds]
        variant["score"] = {"mean": sum(values) / len(values), "low": 0.0, "high": 1.0, "values": values}
        variant["baselines"] = {}
    return content


def test_summary_claims_no_more_than_the_interval(tmp_path: Path) -> None:
    # Seeds differ by 20 points, but fedprox is ahead in each by about as much.
    ahead = summary_of(tmp_path, scores((0.5, 0.52), (0.6, 0.621), (0.7, 0.722)))
    assert ahead.startswith("fedprox has the highest test accuracy, 62.1 %; 2.1 points better than fedavg")
    assert "95 % interval over 3 seeds: 1.9 to 2.3" in ahead
    # The same mean difference, but not in every seed.
    mixed = summary_of(tmp_path, scores((0.5, 0.58), (0.6, 0.623), (0.7, 0.66)))
    assert "better than" not in mixed
    assert "its difference to fedavg is within the 95 % interval over 3 seeds" in mixed
    # Where the reference leads, the runner-up is what it is compared with.
    leading = summary_of(tmp_path, scores((0.52, 0.5), (0.621, 0.6), (0.722, 0.7)))
    assert leading.startswith("fedavg has the highest test accuracy, 62.1 %; 2.1 points better than fedprox")


def test_lower_is_better_for_losses(tmp_path: Path) -> None:
    content = comparison(measure="loss")
    best = min(content["variants"], key=lambda one: one["score"]["mean"])
    page = page_of(tmp_path, content)
    assert f"{best['label']} has the lowest test loss" in page.text
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "td"]
    assert "better" in classes
    assert "worse" in classes


def test_pairs_leave_out_seeds_that_one_side_lacks(tmp_path: Path) -> None:
    content = scores((0.5, 0.6), (0.6, 0.8), (0.7, 0.7))
    content["variants"][0]["score"]["values"][2] = None
    first, second = read_comparison(written(tmp_path, content)).variants
    difference = paired(second.score, first.score)
    assert difference is not None
    assert (difference.count, round(difference.mean, 6)) == (2, 0.15)


@pytest.mark.parametrize(
    ("chosen", "edges"),
    [({"rate": 1e-3}, []), ({"rate": 1e-2}, ["rate"]), ({"rate": 1e-4}, ["rate"]), ({"name": "adamw"}, [])],
)
def test_a_choice_at_the_edge_of_the_grid(chosen: dict[str, Any], edges: list[str]) -> None:
    tried = [{"rate": rate, "name": name} for rate, name in ((1e-4, "sgd"), (1e-3, "adamw"), (1e-2, "sgd"))]
    assert at_the_edge(chosen, tried) == edges


def test_tuning_tells_trials_choice_and_edge(tmp_path: Path) -> None:
    page = page_of(tmp_path, comparison())
    assert page.text.count("at the edge of what was tried") == 1  # fedprox
    assert "4 trials and 96 rounds for each" in page.text
    assert page.row("0.0001") == ["8", "1.900", "stopped early"]
    assert page.row("0.001") == ["40", "1.100", "chosen"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "variants": 3}'])
def test_what_is_no_comparison_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="comparison"):
        write_comparison(tmp_path)
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(UserError, match=r"compare\.json"):
        write_comparison(tmp_path)
