"""Reading `compare.json`: variants and baselines, their runs, and numbers over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.errors import UserError
from fedloom.report.record import Point, merge_seeds
from fedloom.statistics import Interval, student_interval

COMPARISON = "compare.json"
FORMAT = 1

Run = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number over seeds.

    Args:
        mean: over the seeds that have it.
        low: where its 95 % interval begins, None with one seed.
        high: where it ends.
        values: one per seed, in the order of the comparison's seeds; None where a cell has none.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A variant, or a baseline.

    Args:
        label: what it is called.
        style: its class in the style sheet.
        arm: federated, or the baseline's arm.
        settings: what is varied, by recipe key.
        chosen: what tuning has chosen, by recipe key; None where nothing was tuned.
        tuning: what was tried.
        runs: one per seed so far.
        score: on the test set.
        difference: to the reference, paired by seed.
        seconds: of a run.
        traffic: bytes of a run, both ways.
        baselines: the labels of its baselines, by arm.
    """

    label: str
    style: str
    arm: str
    settings: Mapping[str, Any]
    chosen: Mapping[str, Any] | None
    tuning: Sequence[Mapping[str, Any]]
    runs: Sequence[Run]
    score: Number | None
    difference: Number | None
    seconds: Number | None
    traffic: Number | None
    baselines: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Run]:
        """The runs that ended without a result."""
        return [run for run in self.runs if run.get("failed")]

    def curve(self, measure: str) -> tuple[Point, ...]:
        """The test loss or accuracy by round, over seeds."""
        return merge_seeds([_by_round(run.get("curve"), measure) for run in self.runs])

    def simulated(self) -> list[dict[int, float]]:
        """Of each run that has come to a result, the simulated seconds that have passed after a round."""
        clocks = [run.get("simulated") for run in self.runs if not run.get("failed")]
        return [dict(zip(clock["round"], clock["seconds"], strict=True)) if clock else {} for clock in clocks]

    def training(self) -> tuple[Point, ...]:
        """The training loss by round, over seeds."""
        return merge_seeds([_by_round(run.get("training"), "loss") for run in self.runs])

    def clients(self, measure: str) -> dict[str, float]:
        """Every client's score on its own test, mean over the seeds that have it."""
        values: dict[str, list[float]] = {}
        for run in self.runs:
            for name, scores in (run.get("clients") or {}).items():
                if scores.get(measure) is not None:
                    values.setdefault(name, []).append(scores[measure])
        return {name: sum(found) / len(found) for name, found in values.items()}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the page is about.

    Args:
        content: of `compare.json`.
        variants: in the order of the file.
        baselines: local and centralized, one for each set of settings that matters to them.
        base: the score of the untuned base model.
    """

    content: Mapping[str, Any]
    variants: tuple[Entry, ...]
    baselines: tuple[Entry, ...]
    base: Number | None

    @property
    def measure(self) -> str:
        """Accuracy or loss."""
        return str(self.content["measure"])

    @property
    def seeds(self) -> int:
        """How many seeds each variant is run with."""
        return len(self.content["seeds"])

    @property
    def reference(self) -> Entry | None:
        """The variant that others are compared with."""
        return next((one for one in self.variants if one.label == self.content["reference"]), None)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Variants, then baselines."""
        return self.variants + self.baselines

    def gain(self, difference: float) -> float:
        """A difference of scores, positive where it is for the better."""
        return difference if self.content["better"] == "higher" else -difference

    def ranked(self) -> list[Entry]:
        """The variants that have a score, the best first."""
        known = [(one.score.mean, one) for one in self.variants if one.score is not None]
        return [one for _, one in sorted(known, key=lambda pair: -self.gain(pair[0]))]

    def baseline(self, entry: Entry, arm: str) -> Entry | None:
        """The baseline of a variant."""
        label = entry.baselines.get(arm)
        return next((one for one in self.baselines if one.label == label), None)


def read_comparison(folder: Path) -> Comparison:
    """Read the comparison that `fedloom compare` has written, or is writing, to a folder.

    Args:
        folder: the comparison's directory.

    Returns:
        The comparison.

    Raises:
        UserError: if there is none, or it can't be read.
    """
    file = folder / COMPARISON
    if not file.exists():
        raise UserError(f"{folder} holds no comparison: it has no {COMPARISON}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file} is no comparison of format {FORMAT}")
    try:
        variants, baselines = content["variants"], content["baselines"]
        styles = [f"s{index}" for index in range(len(variants) + len(baselines))]
        entries = [_entry(one, style) for one, style in zip([*variants, *baselines], styles, strict=True)]
        base = _number((content.get("base") or {}).get("score"))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} lacks or garbles a part of a comparison: {error!r}") from None
    return Comparison(
        content=content,
        variants=tuple(entries[: len(variants)]),
        baselines=tuple(entries[len(variants) :]),
        base=base,
    )


def paired(one: Number | None, other: Number | None) -> Interval | None:
    """The difference of two numbers, paired by seed.

    Args:
        one: a number over seeds.
        other: what is taken from it.

    Returns:
        The mean difference with its interval, None where no seed has both.
    """
    if one is None or other is None:
        return None
    pairs = zip(one.values, other.values, strict=False)
    differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    return student_interval(differences) if differences else None


def _entry(content: Mapping[str, Any], style: str) -> Entry:
    return Entry(
        label=str(content["label"]),
        style=style,
        arm=str(content.get("arm", "federated")),
        settings=content.get("settings") or {},
        chosen=content.get("chosen"),
        tuning=content.get("tuning") or (),
        runs=content.get("runs") or (),
        score=_number(content.get("score")),
        difference=_number(content.get("difference")),
        seconds=_number(content.get("seconds")),
        traffic=_number(content.get("bytes")),
        baselines=content.get("baselines") or {},
    )


def _number(content: Mapping[str, Any] | None) -> Number | None:
    if not content or content.get("mean") is None:
        return None
    values = tuple(content.get("values") or ())
    return Number(mean=content["mean"], low=content.get("low"), high=content.get("high"), values=values)


def _by_round(curve: Mapping[str, Any] | None, measure: str) -> dict[int, float | None]:
    if not curve or not curve.get(measure):
        return {}
    return dict(zip(curve["round"], curve[measure], strict=True))
