"""Comparisons as a person starts them: a recipe, what is varied, seeds, a folder; a line a cell, a table, a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedloom.comparison.cells import Cell
from fedloom.comparison.folder import Unit, opened, units_of
from fedloom.comparison.plan import Arguments, Plan, make_plan
from fedloom.comparison.processes import carry_out, share_out
from fedloom.comparison.same_files import check_same_files
from fedloom.comparison.summary import Summary
from fedloom.comparison.table import closing_table
from fedloom.comparison.tuning import Tuning
from fedloom.comparison.workshop import Workshop
from fedloom.errors import UserError
from fedloom.places import place_under_torchrun
from fedloom.recipe import Recipe, read_recipe
from fedloom.report.comparison import write_comparison
from fedloom.report.units import loss_text, seconds_text


@dataclass(frozen=True)
class Comparison:
    """What a comparison leaves behind.

    Args:
        out: its folder.
        page: its HTML page.
        results: the content of `compare.json`.
    """

    out: Path
    page: Path
    results: dict[str, Any]


def compare(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    vary: Mapping[str, Sequence[Any]] | None = None,
    tune: Mapping[str, Sequence[Any] | None] | None = None,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    baselines: bool = True,
    reference: str | None = None,
    resume: bool = False,
    processes: int = 1,
    show: bool = False,
) -> Comparison:
    """Run a recipe in several variants with several seeds, and compare what they come to.

    Args:
        recipe: a YAML file, a shipped recipe's name, or the recipe as a mapping.
        out: the comparison's folder: new, or with `resume` the one to go on with.
        vary: recipe key -> values; variants are all combinations.
        tune: recipe key -> values that are chosen between for each variant; None: values around the recipe's.
        seeds: runs of each variant, with consecutive seeds from the recipe's on.
        overrides: strings such as "local.steps=20", for all variants.
        baselines: also run local and centralized (or those of them that the recipe names).
        reference: the label of the variant that differences are taken to; default: the first.
        resume: go on with a comparison that was stopped or killed; what has ended is not repeated.
        processes: share whole runs between so many processes.
        show: a line for every cell and a closing table on the terminal.

    Returns:
        The folder and the results.

    Raises:
        UserError: for any mistake in the arguments, in any variant's recipe, in the data or the folder.
    """
    if place_under_torchrun() is not None:
        raise UserError("compare: torchrun's processes make one run", hint="start it without, and give --processes N")
    if processes < 1:
        raise UserError(f"--processes: {processes} is not a positive number")
    folder = Path(out)
    arguments = Arguments(
        recipe=read_recipe(recipe),
        overrides=list(overrides),
        vary={key: list(values) for key, values in (vary or {}).items()},
        tune={key: None if values is None else list(values) for key, values in (tune or {}).items()},
        seeds=seeds,
        baselines=baselines,
        reference=reference,
    )
    plan = make_plan(arguments)
    console = Console() if show else Console(quiet=True)
    with opened(folder, arguments, resume):
        units = units_of(folder, plan)
        workshop = Workshop(folder)
        if not all(unit.done for unit in units):
            check_same_files(folder, workshop, _check_data(workshop, plan, units))
        summary = Summary(folder, arguments, plan, units)
        told = _Told(units, console)

        def ended() -> None:
            if told.look():
                summary.write()

        if processes == 1:
            carry_out(folder, units, workshop, ended)
        else:
            share_out(folder, units, processes, ended)
        for unit in units:
            unit.complete()
        results = summary.write()
        page = write_comparison(folder)
    console.print(closing_table(results))
    console.print(f"results  {summary.path}\npage     {page}", highlight=False, soft_wrap=True)
    return Comparison(folder, page, results)


def _check_data(workshop: Workshop, plan: Plan, units: Sequence[Unit]) -> list[Recipe]:
    """Prepare all data, and check them against every recipe, before the first run begins; returns all recipes."""
    checked: list[Recipe] = []

    def check(recipe: Recipe, where: str) -> None:
        try:
            workshop.data(recipe)
        except UserError as error:
            raise UserError(f"{where}: {error.message}", error.hint) from None
        checked.append(recipe)

    for unit in units:
        if isinstance(unit, Tuning):
            check(unit.recipe(0), "--tune, on the validation split")
    for seed in plan.seeds:
        for subject in plan.subjects:
            for recipe in [candidate.recipe for candidate in subject.candidates] or [subject.recipe]:
                check(recipe.model_copy(update={"seed": seed}), subject.label)
    return checked


class _Told:
    """Tells of every unit once, when it has ended."""

    def __init__(self, units: Sequence[Unit], console: Console) -> None:
        self._left = [unit for unit in units if not unit.done]
        self._count = len(units)
        self._console = console
        before = self._count - len(self._left)
        if before:
            console.print(f"{before} of {self._count} have ended before", highlight=False)

    def look(self) -> bool:
        """Tell of those that have ended since; returns whether there are any."""
        ended = [unit for unit in self._left if unit.done]
        for unit in ended:
            self._left.remove(unit)
            place = f"{self._count - len(self._left):>{len(str(self._count))}}/{self._count}"
            line = f"{time.strftime('%H:%M:%S')}  {place}  {unit.name}: {_outcome(unit)}"
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)
        return bool(ended)


def _outcome(unit: Unit) -> str:
    if isinstance(unit, Tuning):
        chosen = ", ".join(f"{key}={value}" for key, value in unit.chosen.values.items())
        return f"chose {chosen}"
    assert isinstance(unit, Cell)
    if unit.result is None:
        return f"failed: {unit.failure}"
    return f"loss {loss_text(unit.result['loss'])}, {seconds_text(unit.metrics['seconds'])}"
