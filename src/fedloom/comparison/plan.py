"""From a command's arguments to what is run: variants, the baselines they share, and the values each is tuned over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fedloom.comparison.grid import Values, folder_name, label_of, overrides_of, points, values_around
from fedloom.errors import UserError, nearest
from fedloom.recipe import Recipe, load_recipe
from fedloom.recipe.combinations import rank_groups
from fedloom.recipe.federation_schema import FederationConfig
from fedloom.recipe.schema import BaselineConfig

FEDERATED = "federated"
SHARED_BASELINES = ("local", "centralized")
# Added to the recipe's seed: tuning draws nothing that a reported run draws.
TUNING_SEED_OFFSET = 1000
# What a comparison sets itself, or what says nothing about a result.
FIXED = {
    "seed": "each variant is run with --seeds",
    "name": "it changes nothing but a name",
    "trackers": "they change nothing but what is recorded elsewhere",
    "baselines": "they are runs of their own, see --no-baselines",
}


@dataclass(frozen=True)
class Arguments:
    """What was asked for; a comparison that goes on must be asked for the same.

    Args:
        recipe: keys and values as they were written, no defaults.
        overrides: as given to --set.
        vary: key -> values, in the order given.
        tune: key -> values; None: values around the recipe's.
        seeds: runs of each variant.
        baselines: whether local and centralized are run beside the variants.
        reference: the label that differences are taken to; None: the first variant's.
    """

    recipe: dict[str, Any]
    overrides: list[str] = field(default_factory=list)
    vary: dict[str, list[Any]] = field(default_factory=dict)
    tune: dict[str, list[Any] | None] = field(default_factory=dict)
    seeds: int = 3
    baselines: bool = True
    reference: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """Values of the tuned keys, and the recipe with them."""

    values: Values
    recipe: Recipe


@dataclass(frozen=True)
class Subject:
    """What is run once for each seed: a variant, or a baseline that variants share.

    Args:
        label: its name for people.
        folder: its name on disk.
        arm: what is trained: federated, local or centralized.
        settings: the varied keys and their values, as far as it depends on them.
        recipe: of its runs, but for their seeds and, where it is tuned, for the chosen values.
        candidates: what tuning chooses between; empty: it is not tuned.
        baselines: arm -> label of the baselines a variant is compared with.
    """

    label: str
    folder: str
    arm: str
    settings: Values
    recipe: Recipe
    candidates: tuple[Candidate, ...] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All that is to be run.

    Args:
        recipe: the base recipe.
        variants: in the order of the grid.
        baselines: in the order in which variants first need them.
        seeds: of the reported runs.
        tuning_seed: of the trials; None: nothing is tuned.
        reference: label of the variant that differences are taken to.
    """

    recipe: Recipe
    variants: tuple[Subject, ...]
    baselines: tuple[Subject, ...]
    seeds: tuple[int, ...]
    tuning_seed: int | None
    reference: str

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Variants, then baselines."""
        return self.variants + self.baselines


def make_plan(arguments: Arguments) -> Plan:
    """Check the arguments and every recipe that follows from them.

    Args:
        arguments: what was asked for.

    Returns:
        The plan.

    Raises:
        UserError: for unknown keys or values, illegal combinations in any variant, variants that are the same run.
    """
    base = load_recipe(arguments.recipe, arguments.overrides)
    _check_arguments(arguments, base)
    variants: list[Subject] = []
    baselines: list[Subject] = []
    drafts = [_candidates(arguments, base, point) for point in points(arguments.vary)]
    _check_distinct(drafts)
    for point, recipe, candidates in drafts:
        label = label_of(point, list(arguments.vary)) or recipe.federation.algorithm.name
        taken = [subject.folder for subject in variants]
        own = Subject(label, folder_name(label, taken), FEDERATED, point, _alone(recipe), _each(candidates, _alone))
        variants.append(own)
    # Who tunes local.learning_rate tunes that of baselines too, whatever the recipe says of theirs.
    keeps_rate = "local.learning_rate" not in arguments.tune
    for arm in _arms_beside(arguments, base):
        baselines += _share_baselines(arm, drafts, variants, baselines, keeps_rate)
    labels = [variant.label for variant in variants]
    reference = labels[0] if arguments.reference is None else arguments.reference
    if reference not in labels:
        close = nearest(reference, labels)
        hint = f"did you mean {close!r}?" if close else None
        raise UserError(f"--reference: {reference!r} is no variant; there are: {', '.join(labels)}", hint=hint)
    return Plan(
        base,
        tuple(variants),
        tuple(baselines),
        tuple(base.seed + offset for offset in range(arguments.seeds)),
        base.seed + TUNING_SEED_OFFSET if arguments.tune else None,
        reference,
    )


_Draft = tuple[Values, Recipe, tuple[Candidate, ...]]


def _check_arguments(arguments: Arguments, base: Recipe) -> None:
    if arguments.seeds < 1:
        raise UserError(f"--seeds: {arguments.seeds} is not a positive number")
    if arguments.tune and arguments.seeds > TUNING_SEED_OFFSET:
        raise UserError(f"--seeds: {arguments.seeds} runs into the seed that tunes; at most {TUNING_SEED_OFFSET}")
    _check_recipe(arguments, base)
    for option, keys in (("--vary", arguments.vary), ("--tune", arguments.tune)):
        for key, values in keys.items():
            top = key.split(".")[0]
            if top in FIXED:
                raise UserError(f"{option} {key}: can't be varied: {FIXED[top]}")
            if key.startswith("runtime.kind") or (option == "--tune" and top in {"runtime", "evaluation"}):
                raise UserError(f"{option} {key}: is no setting of what is learnt")
            if key == "federation.rounds" and option == "--tune":
                raise UserError("--tune federation.rounds: is the budget that tuning spends")
            if values is not None and len({repr(value) for value in values}) < len(values):
                raise UserError(f"{option} {key}: the same value is given twice")
            if values is not None and len(values) < (2 if option == "--tune" else 1):
                raise UserError(
                    f"{option} {key}: nothing to choose between", hint=f"set one value with --set {key}=..."
                )
    both = [key for key in arguments.tune if key in arguments.vary]
    if both:
        raise UserError(f"--tune {both[0]}: is varied as well; a variant has one value")


def _check_recipe(arguments: Arguments, recipe: Recipe) -> None:
    """Check what a comparison asks of the recipe, and of every variant's."""
    if recipe.runtime.kind == "distributed":
        raise UserError(
            "runtime.kind: a comparison shares whole runs between its processes, not the clients of one",
            hint="leave it in_process, and give --processes N",
        )
    if recipe.evaluation.cross:
        raise UserError(
            "evaluation.cross: has no place in a comparison, whose baselines are runs of their own",
            hint="leave it out with --set evaluation.cross=false",
        )
    if arguments.tune and recipe.evaluation.split == "validation":
        raise UserError(
            "--tune: chooses on the validation split, and evaluation.split reports it too",
            hint="report the test split",
        )


def _candidates(arguments: Arguments, base: Recipe, point: Values) -> _Draft:
    """A variant's recipe, and one for each combination of values it is tuned over."""

    def loaded(values: Values) -> Recipe:
        try:
            recipe = load_recipe(arguments.recipe, [*arguments.overrides, *overrides_of({**point, **values}, base)])
            _check_recipe(arguments, recipe)
            return recipe
        except UserError as error:
            label = label_of(point, list(arguments.vary))
            tuned = f", {label_of(values, list(values))}" if values else ""
            raise UserError(f"{label}{tuned}: {error.message}" if label else error.message, error.hint) from None

    recipe = loaded({})
    if not arguments.tune:
        return point, recipe, ()
    axes = {key: values_around(recipe, key) if given is None else given for key, given in arguments.tune.items()}
    found = tuple(Candidate(values, loaded(values)) for values in points(axes))
    if len({candidate.recipe.model_dump_json() for candidate in found}) < len(found):
        raise UserError(f"--tune {', '.join(axes)}: changes nothing in {label_of(point, list(point)) or 'the recipe'}")
    return point, recipe, found


def _check_distinct(drafts: Sequence[_Draft]) -> None:
    seen: dict[str, Values] = {}
    for point, recipe, _ in drafts:
        text = recipe.model_dump_json()
        if text in seen:
            pair = " and ".join(repr(label_of(one, list(one))) for one in (seen[text], point))
            raise UserError(f"--vary: {pair} are the same run: what is varied changes nothing there")
        seen[text] = point


def _arms_beside(arguments: Arguments, base: Recipe) -> list[str]:
    if not arguments.baselines:
        return []
    named = [baseline.kind for baseline in base.baselines if baseline.kind in SHARED_BASELINES]
    return list(named or SHARED_BASELINES)


def _share_baselines(
    arm: str, drafts: Sequence[_Draft], variants: list[Subject], others: Sequence[Subject], keeps_rate: bool
) -> list[Subject]:
    """One baseline for all variants that have the same settings outside the federation; variants are told which."""

    def baseline(recipe: Recipe) -> Recipe:
        return _baseline(recipe, arm, keeps_rate)

    groups: dict[str, list[int]] = {}
    for place, (_, recipe, candidates) in enumerate(drafts):
        own = [baseline(one) for one in (recipe, *(candidate.recipe for candidate in candidates))]
        groups.setdefault("\n".join(one.model_dump_json() for one in own), []).append(place)
    found: list[Subject] = []
    for places in groups.values():
        point, recipe, candidates = drafts[places[0]]
        settings = {k: v for k, v in point.items() if all(drafts[place][0][k] == v for place in places)}
        if len(groups) == 1:
            settings = {}
        label = ", ".join(part for part in (arm, label_of(settings, list(point))) if part)
        while label in [subject.label for subject in (*variants, *found)]:
            label += "'"
        tuned = _each(candidates, baseline)
        if len({candidate.recipe.model_dump_json() for candidate in tuned}) < len(tuned):
            tuned = _first_of_each(tuned)
        folder = folder_name(label, [subject.folder for subject in (*variants, *others, *found)])
        found.append(Subject(label, folder, arm, settings, baseline(recipe), tuned if len(tuned) > 1 else ()))
        for place in places:
            known = {**variants[place].baselines, arm: label}
            variants[place] = Subject(**{**vars(variants[place]), "baselines": known})
    return found


def _each(candidates: Sequence[Candidate], change: Callable[[Recipe], Recipe]) -> tuple[Candidate, ...]:
    return tuple(Candidate(candidate.values, change(candidate.recipe)) for candidate in candidates)


def _first_of_each(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Candidates that differ: a baseline does not depend on all keys that a variant is tuned over."""
    kept = {candidate.recipe.model_dump_json(): candidate for candidate in reversed(candidates)}
    return tuple(reversed(kept.values()))


def _alone(recipe: Recipe) -> Recipe:
    """A variant's recipe without the baselines that are runs of their own."""
    kept = [baseline for baseline in recipe.baselines if baseline.kind not in SHARED_BASELINES]
    return recipe.model_copy(update={"baselines": kept})


def _baseline(recipe: Recipe, arm: str, keeps_rate: bool) -> Recipe:
    """A baseline's recipe: what it does not depend on is set to the same for all, so that equal runs are equal."""
    config = next((one for one in recipe.baselines if one.kind == arm), None)
    federation = recipe.federation
    if not rank_groups(recipe):
        federation = FederationConfig(rounds=federation.rounds, clients_per_round=federation.clients_per_round)
    own = config.learning_rate if config is not None and keeps_rate else None
    rate = own or recipe.local.learning_rate
    return recipe.model_copy(
        update={
            "federation": federation,
            # A baseline's clients keep nothing apart that they could train sparsely, and train over the whole base.
            "local": recipe.local.model_copy(update={"learning_rate": rate, "sparse": None, "pruning": None}),
            "baselines": [BaselineConfig.model_validate({"kind": arm})],
        }
    )
