"""Live progress in the terminal and the closing table, from the same events that the log stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedloom.report.events import Event
from fedloom.report.results import CLASS_MEASURES, PREFERENCE_MEASURES, TEST_SETS, Column, arms, columns, score
from fedloom.report.units import (
    accuracy_text,
    bytes_text,
    layers_text,
    loss_text,
    measure_name,
    seconds_text,
    stop_text,
)


class Progress:
    """Shows how far a run is: a bar in a terminal, one plain line per round elsewhere.

    Args:
        plan: the arms that will run and how many rounds each has.
        console: where to print; standard output unless told.
    """

    def __init__(self, plan: Mapping[str, int], console: Console | None = None) -> None:
        self._plan = dict(plan)
        self._console = console or Console()
        self._done = dict.fromkeys(self._plan, 0)
        self._finished: set[str] = set()
        self._arm = ""
        self._arm_began: float | None = None
        self._rounds_seen = 0
        self._last_time: float | None = None
        self._bar: bars.Progress | None = None
        self._task: bars.TaskID | None = None

    def __enter__(self) -> Progress:
        """Start the bar, if there is a terminal to draw it in."""
        if self._console.is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn("[bold]{task.description}"),
                bars.BarColumn(),
                bars.TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=None, text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar, so that what follows starts on a clean line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def __call__(self, event: Event) -> None:
        """Take one event of the log; those of rounds and evaluations are shown, and what is slower than usual.

        Args:
            event: see `EventLog`.
        """
        if event.get("one_client_at_a_time"):
            self._console.print(
                f"adapter {event['adapter']}: clients train one after another", highlight=False, soft_wrap=True
            )
        if event.get("fresh_head"):
            self._console.print(
                "base: its weights have no classification head, so its result is that of a random one",
                highlight=False,
                soft_wrap=True,
            )
        if event["event"] == "layers":
            self._console.print(f"shared layers: {layers_text(event)}", highlight=False, soft_wrap=True)
        elif event["event"] in ("round", "baseline_round"):
            self._round(event.get("arm", "federated"), event)
        elif event["event"] == "stop":
            self._plan = dict(event["rounds"])
        elif event["event"] == "evaluation" and self._bar is not None and self._task is not None:
            reached = score(event["result"])
            known = reached.accuracy is not None
            text = accuracy_text(reached.accuracy) if known else f"loss {loss_text(reached.loss)}"
            self._bar.update(self._task, text=f"{event['arm']} on the test: {text}")
        self._last_time = event["time"]

    def _round(self, arm: str, event: Event) -> None:
        spent = event.get("train_seconds", 0.0) + event.get("aggregate_seconds", 0.0)
        if arm != self._arm:
            self._finished.add(self._arm)
            self._arm, self._rounds_seen = arm, 0
            self._arm_began = self._last_time
        if self._arm_began is None:
            self._arm_began = event["time"] - spent
        self._rounds_seen += 1
        self._done[arm] = event["round"]
        pace = (event["time"] - self._arm_began) / self._rounds_seen
        left = f"left {seconds_text(pace * self._rounds_left())}"
        total = self._plan.get(arm, event["round"])
        heading = f"{arm} round {event['round']}/{total}"
        loss = f"loss {loss_text(event['loss'])}"
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                description=heading,
                completed=event["round"],
                total=total,
                text=f"{loss}  {left}",
            )
        else:
            line = f"{heading}  {loss}  {seconds_text(spent)}  {left}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _rounds_left(self) -> int:
        """Rounds of all arms still to come; an arm that others followed has ended, at whatever round."""
        return sum(max(0, total - self._done[arm]) for arm, total in self._plan.items() if arm not in self._finished)


def closing_table(metrics: Mapping[str, Any]) -> Table:
    """The table a run ends with: one row per arm, one column per measure and test set.

    Args:
        metrics: the content of `metrics.json`, of one run or of several seeds (then with deviations).

    Returns:
        A table to print with rich, with traffic and time in its caption.
    """
    results = arms(metrics)
    shown = _compact(columns(list(results.values())), most=4 if metrics.get("seeds") else 5)
    title = Text(str(metrics.get("name", "")))  # plain text: a name may hold square brackets
    table = Table(title=title, caption=_caption(metrics), caption_justify="left", min_width=48)
    table.add_column("", no_wrap=True)
    for test_set, measure in shown:
        name = measure_name(measure)
        table.add_column(f"{TEST_SETS[test_set]}\n{name}" if test_set else name, justify="right")
    for arm, result in results.items():
        cells = [arm]
        for test_set, measure in shown:
            cells.append(score(result, test_set).text(measure))
        table.add_row(*cells, style="bold" if arm == "federated" else None)
    return table


def _compact(shown: Sequence[Column], most: int) -> list[Column]:
    """Leave out what stands beside an accuracy, so that the table fits 80 characters.

    Losses go first, those of the last test sets before others; then one measure of classes, or of preferences, after
    another.
    """
    kept = list(shown)
    for test_set, measure in reversed(shown):
        if len(kept) > most and measure == "loss" and (test_set, "accuracy") in shown:
            kept.remove((test_set, measure))
    for left_out in reversed((*CLASS_MEASURES, *PREFERENCE_MEASURES)):
        if len(kept) > most:
            kept = [(test_set, measure) for test_set, measure in kept if measure != left_out]
    return kept


def _caption(metrics: Mapping[str, Any]) -> str:
    parts = [
        f"up {bytes_text(metrics.get('bytes_up'))}, down {bytes_text(metrics.get('bytes_down'))}",
        seconds_text(metrics.get("seconds")),
    ]
    if metrics.get("rejected"):
        parts.append(f"rejected updates: {metrics['rejected']:g}")
    if metrics.get("stop"):
        parts.append(stop_text(metrics["stop"]))
    for seed, stop in (metrics.get("stops") or {}).items():
        parts.append(f"seed {seed}: {stop_text(stop)}")
    if metrics.get("seeds"):
        parts.append(f"mean ± standard deviation over {len(metrics['seeds'])} seeds")
    return " · ".join(parts)
