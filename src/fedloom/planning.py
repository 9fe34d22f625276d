"""What a person calls to plan a wireless network: tables on the terminal, and a page that draws them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloom.errors import UserError

if TYPE_CHECKING:
    from fedloom.wireless.plan import Plan, Sweep

app = typer.Typer(
    help="Plan a federation over a wireless network: who prunes how much, with how much bandwidth.",
    no_args_is_help=True,
)
ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A YAML file, or a shipped scenario's name such as default.")
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The page; default: NAME-plan.html or NAME-sweep.html here.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON in place of tables; a page is written with --out only.")
]


@app.command()
def plan(
    scenario: ScenarioArgument,
    round_number: Annotated[int, typer.Option("--round", min=0, help="Whose channels.")] = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Solve one round by every scheme; print and draw the latencies, and the allocation of the best."""
    from fedloom.report.wireless import write_plan
    from fedloom.wireless.plan import plan_round, plan_values
    from fedloom.wireless.scenario import load_scenario

    network = load_scenario(scenario)
    target = _target(out, f"{network.name}-plan.html", as_json)
    found = plan_round(network, round_number)
    if as_json:
        typer.echo(json.dumps(plan_values(found), indent=2))
    else:
        _print_plan(found)
    if target is not None:
        typer.echo(f"wrote {write_plan(found, target)}", err=as_json)


@app.command()
def sweep(
    scenario: ScenarioArgument,
    vary: Annotated[
        str,
        typer.Option(metavar="KEY[=VALUE,VALUE]", help="bandwidth (Hz), budget or clients; default: values around."),
    ],
    rounds: Annotated[int, typer.Option(help="Draws of the channels, over which latencies are averaged.")] = 10,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print and draw every scheme's latency over bandwidth, budget or number of clients."""
    from fedloom.report.wireless import write_sweep
    from fedloom.wireless.plan import sweep_values, sweep_variable
    from fedloom.wireless.scenario import load_scenario

    variable, values = _varied(vary)
    network = load_scenario(scenario)
    target = _target(out, f"{network.name}-sweep.html", as_json)
    found = sweep_variable(network, variable, values, rounds)
    if as_json:
        typer.echo(json.dumps(sweep_values(found), indent=2))
    else:
        _print_sweep(found)
    if target is not None:
        typer.echo(f"wrote {write_sweep(found, target)}", err=as_json)


def _target(out: Path | None, default: str, as_json: bool) -> Path | None:
    target = out if out is not None or as_json else Path(default)
    if target is not None and not target.parent.is_dir():
        raise UserError(f"--out: no such folder: {target.parent}")
    return target


def _varied(text: str) -> tuple[str, list[float]]:
    variable, equals, listed = text.partition("=")
    try:
        values = [float(one) for one in listed.split(",")] if equals else []
    except ValueError:
        raise UserError(f"--vary {text}: expected numbers, e.g. {variable}=1,2,5") from None
    return variable.strip(), values


def _print_plan(found: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from fedloom.report.wireless import CLIENT_HEADINGS, MOST_ROWS, client_cells, plan_sentence
    from fedloom.wireless.plan import NAMES, OURS

    best = found.schemes[OURS].latency_s
    table = Table("scheme", "latency", "above the best", title="simulated latency of the round", title_justify="left")
    for name, one in sorted(found.schemes.items(), key=lambda item: item[1].latency_s):
        above = "" if name == OURS else f"{100 * (one.latency_s / best - 1):.1f} %"
        table.add_row(NAMES[name], f"{one.latency_s:.3f} s", above)
    # Narrow enough for a terminal of 80 columns.
    title = f"what every client gets: {NAMES[OURS]}"
    clients = Table(*CLIENT_HEADINGS, title=title, title_justify="left", box=None)
    for k in range(min(found.problem.clients, MOST_ROWS)):
        clients.add_row(*client_cells(found, k))
    console = Console()
    console.print(table)
    console.print(clients)
    if found.problem.clients > MOST_ROWS:
        console.print(f"and {found.problem.clients - MOST_ROWS} more clients, which --json lists")
    console.print(plan_sentence(found))


def _print_sweep(found: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table

    from fedloom.report.wireless import value_text
    from fedloom.wireless.plan import NAMES, VARIABLES

    headings = [value_text(found.variable, value) for value in found.values]
    title = f"mean simulated latency in seconds over {VARIABLES[found.variable]}, {found.rounds} rounds each"
    table = Table("scheme", *headings, title=title, title_justify="left")
    for name, latencies in found.latency_s.items():
        table.add_row(NAMES[name], *(f"{one:.3f}" for one in latencies))
    Console().print(table)
