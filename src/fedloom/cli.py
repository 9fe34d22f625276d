"""The command line: commands, no logic."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedloom import planning
from fedloom.errors import ProcessLost, UserError, disk_error, unknown_name

app = typer.Typer(
    help="Fine-tune language models across data owners who cannot pool their data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(planning.app, name="wireless")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. --set local.steps=20."),
]


@app.command()
def run(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(help="The run directory: new, or with --resume the one to go on with.")],
    overrides: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    seeds: Annotated[int, typer.Option(help="Repeat with so many seeds and report means.")] = 1,
    processes: Annotated[
        int | None, typer.Option(help="Share the work between so many processes: runtime.kind=distributed.")
    ] = None,
) -> None:
    """Carry out a recipe."""
    from fedloom.launch import launch
    from fedloom.places import place_under_torchrun, with_processes
    from fedloom.recipe import load_recipe

    overrides = with_processes(overrides or [], processes)
    if place_under_torchrun() is None:
        # A mistake in the recipe is told at once, before a model library is imported.
        checked = load_recipe(recipe, overrides)
        if checked.runtime.kind == "distributed":
            # This process only watches the others: it opens neither data nor model.
            with _told_when_stopped():
                launch(checked, out, resume, seeds, show=True)
            return
    from fedloom.runs import run as run_recipe

    with _told_when_stopped():
        run_recipe(recipe, out, overrides, resume=resume, seeds=seeds, show=True)


@app.command()
def compare(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(help="The comparison's folder: new, or with --resume the one to go on with.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="A recipe key and its values; variants are all combinations."),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY[=VALUE,VALUE]",
            help="Choose this key for each variant on validation data; default values: around the recipe's.",
        ),
    ] = None,
    overrides: SetOption = None,
    seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 3,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Run no local and no centralized.")] = False,
    reference: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The variant differences are taken to; default: the first.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a comparison that was stopped.")] = False,
    processes: Annotated[int, typer.Option(help="Share whole runs between so many processes.")] = 1,
) -> None:
    """Run a recipe in several variants, with several seeds, and compare them."""
    from fedloom.comparison.grid import parse_options

    # A mistake in these is told at once, before a model library is imported.
    varied = {key: values or [] for key, values in parse_options("--vary", vary or []).items()}
    tuned = parse_options("--tune", tune or [])
    from fedloom.comparison.compare import compare as compare_variants

    compare_variants(
        recipe,
        out,
        varied,
        tuned,
        seeds=seeds,
        overrides=overrides or [],
        baselines=not no_baselines,
        reference=reference,
        resume=resume,
        processes=processes,
        show=True,
    )


@app.command()
def data(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Show what each client of a recipe holds."""
    from fedloom.inspection import show_data

    show_data(recipe, overrides or [])


@app.command()
def evaluate(
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="A run directory.")] = None,
    split: Annotated[str | None, typer.Option(help="test or validation; default: the recipe's.")] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Suites, tasks or lm_eval:TASK instead of the run's own test."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Holds the tasks' files.")] = None,
    limit: Annotated[int | None, typer.Option(help="So many examples of each task at most; default: all.")] = None,
    baseline: Annotated[str | None, typer.Option(metavar="base", help="Evaluate the untuned base, too.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Read what FOLDER lacks from the hub.")] = False,
    lm_eval_tasks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Task files of your own for lm_eval:TASK.")
    ] = None,
    sandbox: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="How programs of code tasks are shut in: isolated (the default) or weak."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List suites and tasks.")] = False,
    judge: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible endpoint whose model judges answers; they are sent there."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(metavar="NAME", help="The judging model's name there.")] = None,
    judge_key_variable: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable with the API key; default: FEDLOOM_JUDGE_API_KEY."),
    ] = None,
    judge_prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts in place of ours, in FastChat's form or ours.")
    ] = None,
    judge_setting: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What requests say beside model and messages, e.g. max_tokens=1024."),
    ] = None,
    judge_prompt_price: Annotated[float | None, typer.Option(help="Money for a million prompt tokens.")] = None,
    judge_completion_price: Annotated[float | None, typer.Option(help="Money for a million completion tokens.")] = None,
    judge_concurrency: Annotated[int | None, typer.Option(help="Requests under way at a time; default: 4.")] = None,
    judge_timeout: Annotated[float | None, typer.Option(help="Seconds for one reply; default: 120.")] = None,
    judge_attempts: Annotated[int | None, typer.Option(help="Tries of one request; default: 6.")] = None,
) -> None:
    """Evaluate a run's adapter: on the run's own test (printed as JSON), or on suites of benchmarks."""
    if show_list:
        from fedloom.suites.catalogue import listing

        typer.echo(listing())
        return
    if directory is None:
        raise UserError("DIR: missing", hint="fedloom evaluate DIR, or fedloom evaluate --list")
    from fedloom.suites.judge.config import judge_config

    named = judge_config(
        judge,
        judge_model,
        judge_setting or [],
        key_variable=judge_key_variable,
        prompts=judge_prompts,
        prompt_price=judge_prompt_price,
        completion_price=judge_completion_price,
        concurrency=judge_concurrency,
        timeout=judge_timeout,
        attempts=judge_attempts,
    )
    if suite is None:
        from fedloom.inspection import evaluate_run

        of_suites = {"--data": data, "--limit": limit, "--baseline": baseline, "--hub": hub or None}
        of_kinds = {"--lm-eval-tasks": lm_eval_tasks, "--sandbox": sandbox, "--judge": named}
        _have_no_effect({**of_suites, **of_kinds}, "without --suite")
        typer.echo(json.dumps(evaluate_run(directory, split), indent=2))
        return
    _have_no_effect({"--split": split}, "with --suite: a task's file says what is tested")
    from rich.console import Console

    from fedloom.suites.command import evaluate_suites, requested
    from fedloom.suites.kinds.base import Options

    command = shlex.join(["fedloom", *sys.argv[1:]])
    options = Options(sandbox=sandbox, judge=named)
    request = requested(suite, data, hub, limit, baseline, lm_eval_tasks, options, command)
    with _told_when_stopped("what is done is kept; go on with the same command"):
        evaluate_suites(directory, request, Console())


@app.command()
def generate(
    directory: RunArgument,
    prompt: Annotated[str, typer.Argument(help="What to answer.")],
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    base: Annotated[bool, typer.Option("--base", help="Answer with the untuned base instead.")] = False,
) -> None:
    """Answer a prompt with a run's adapter, greedily."""
    from fedloom.inspection import generate_answer

    typer.echo(generate_answer(directory, prompt, max_new_tokens, with_adapter=not base))


@app.command()
def classify(
    directory: RunArgument,
    text: Annotated[str, typer.Argument(help="What to classify.")],
    pair: Annotated[str | None, typer.Option(help="The second text, where the run classifies pairs.")] = None,
) -> None:
    """Tell a text's class with a classification run's adapter."""
    from fedloom.inspection import classify_text

    typer.echo(classify_text(directory, text, pair))


@app.command()
def report(directory: RunArgument) -> None:
    """Write a run's report.html anew."""
    from fedloom.report.html import write_report

    if not directory.is_dir():
        raise UserError(f"{directory}: no such run directory")
    typer.echo(write_report(directory))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this one instead of the list.")] = None,
) -> None:
    """List the recipes that come with Fedloom, or print one of them."""
    from fedloom.recipe.shipped import grouped, shipped_recipes

    shipped = shipped_recipes()
    if name is not None:
        if name not in shipped:
            raise unknown_name("recipe", name, shipped)
        typer.echo(f"# {shipped[name]}\n{shipped[name].read_text(encoding='utf-8')}", nl=False)
        return
    width = max(map(len, shipped), default=0)
    for group, headings in grouped().items():
        paper = next((one.paper for one in headings.values() if one.paper), "")
        typer.echo(paper or group)
        for title, one in headings.items():
            typer.echo(f"  {title:<{width}}  {one.about}")
    typer.echo("\n`fedloom recipes NAME` prints one, with its setting and a command that runs it on local data.")


@app.command()
def schema() -> None:
    """Print the recipe's JSON Schema."""
    from fedloom.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command()
def doctor() -> None:
    """Check this machine: versions, hardware, extras, and that the embedded model computes what it should."""
    from fedloom.doctor import examine

    examine()


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    # Threads wait for the next operation of a step for some 50 microseconds, then sleep: waiting on and on would slow
    # a busy machine down many times over, sleeping at once an idle one by half. Read when torch starts its threads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as error:
        _fail(error.message, error.hint)
    except ProcessLost as error:
        _fail(error.message, error.hint, code=1)
    except OSError as error:
        told = disk_error(error)
        if told is None:
            raise
        _fail(told.message, told.hint)


@contextmanager
def _told_when_stopped(how: str = "go on with --resume") -> Iterator[None]:
    # Left to typer, Ctrl-C ends in silence.
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; {how}", err=True)
        raise typer.Exit(130) from None


def _have_no_effect(options: Mapping[str, object], where: str) -> None:
    for name, given in options.items():
        if given is not None:
            raise UserError(f"{name} has no effect {where}")


def _fail(message: str, hint: str | None, code: int = 2) -> None:
    # Of torchrun's processes, the first one speaks.
    if os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:
        typer.echo(f"error: {message}", err=True)
        if hint:
            typer.echo(f"hint: {hint}", err=True)
    sys.exit(code)
