"""Runs with a curriculum: at its neutral setting the run without one, and the same bytes however it is computed."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import yaml

import fedloom
from fedloom.errors import UserError
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import open_data, open_session
from fedloom.training.batches import round_batches
from fedloom.training.client import ClientWork, LocalTraining
from fedloom.training.cohort import train_cohort
from fedloom.training.curriculum import batches_used
from fedloom.training.optimizers import local_optimizer
from tests.federated_runs import outcome, recipe, write_examples
from tests.processes import Command
from tests.test_kill_and_resume import killed_after

CLIENTS = ("ada", "bo", "cyd", "dee")
FISHER = {"difficulty": "fisher", "start": 0.4, "full_after": 1.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("data") / "words.jsonl", clients=CLIENTS)


def settings(source, curriculum, **sections):
    local = {"epochs": 1, "curriculum": curriculum, **sections.pop("local", {})}
    federation = {"rounds": 3, "clients_per_round": 3, **sections.pop("federation", {})}
    return recipe(source, local=local, federation=federation, **sections)


def run(values, out):
    fedloom.run(values, out)
    return outcome(out)


def without_files(found):
    return {key: value for key, value in found.items() if key != "files"}


def test_a_start_of_one_is_the_run_without_a_curriculum(source, tmp_path):
    plain = run(settings(source, None, baselines=["local"]), tmp_path / "plain")
    neutral = run(settings(source, {**FISHER, "start": 1.0}, baselines=["local"]), tmp_path / "neutral")
    assert without_files(neutral) == without_files(plain)


@pytest.mark.parametrize("difficulty", ["fisher", "loss"])
def test_cohorts_and_lanes_do_not_change_the_bytes(source, tmp_path, difficulty):
    curriculum = {**FISHER, "difficulty": difficulty, "refresh": 1}
    alone = run(settings(source, curriculum, runtime={"cohort": 1}), tmp_path / "alone")
    together = run(settings(source, curriculum, runtime={"cohort": 3, "threads": 2}), tmp_path / "together")
    assert without_files(together) == without_files(alone)


def test_what_is_used_and_what_it_took_are_told(source, tmp_path):
    out = tmp_path / "run"
    values = settings(source, {**FISHER, "full_after": 0.5}, federation={"clients_per_round": 4})
    found = run(values, out)
    data = open_data(load_recipe(values), out)
    sets = [data.examples(client, "train") for client in CLIENTS]
    sizes = [len(examples) for examples in sets]
    used = [sum(min(size, 6 * batches_used("linear", 0.4, 0.5, t, 3, -(-size // 6))) for size in sizes) for t in (0, 1)]
    assert used[0] < used[1] <= sum(sizes)
    rounds = [event for event in read_events(out / "events.jsonl") if event["event"] == "round"]
    # Half of three rounds: the third is without a curriculum.
    assert [event.get("examples_share") for event in rounds] == [used[0] / sum(sizes), used[1] / sum(sizes), None]
    scored = sum(int(examples.lengths.sum()) for examples in sets)
    assert [event.get("curriculum_tokens") for event in rounds] == [scored, 0, None]
    assert found["metrics"]["curriculum_tokens"] == scored
    kept = safetensors.numpy.load_file(out / "clients" / "ada" / "federated" / "1.safetensors")
    assert len(kept["curriculum/difficulties"]) == sizes[0]


def test_difficulties_are_measured_once_or_as_often_as_refresh_says(source, tmp_path):
    def measured(name, **curriculum):
        values = settings(source, {**FISHER, **curriculum}, federation={"rounds": 4, "clients_per_round": 4})
        run(values, tmp_path / name)
        events = read_events(tmp_path / name / "events.jsonl")
        return [event["curriculum_tokens"] > 0 for event in events if event["event"] == "round"]

    assert measured("once") == [True, False, False, False]
    assert measured("second", refresh=2) == [True, False, True, False]
    assert measured("length", difficulty="length") == [False] * 4


def graded(source, path, grade):
    """The same records with a field that says how hard each is."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "grade": grade(place)}) + "\n" for place, row in enumerate(rows)))
    return path


def test_difficulties_of_a_field_are_those_of_the_records(source, tmp_path):
    """Each record's own, numbers also as text; other parts than training need none."""
    values = settings(source, {"difficulty": {"column": "grade"}})
    plain = open_data(load_recipe(settings(source, None)), tmp_path)
    assert plain.examples("ada", "train").difficulties is None
    file = graded(source, tmp_path / "graded.jsonl", lambda place: str(place) if place % 2 else place / 1)
    values["data"]["source"] = str(file)
    data = open_data(load_recipe(values), tmp_path)
    assert data.fingerprint != plain.fingerprint
    owners = [json.loads(line)["owner"] for line in file.read_text().splitlines()]
    for client in CLIENTS:
        found = data.examples(client, "train")
        assert [owners[int(place)] for place in found.difficulties] == [client] * len(found)
        assert found.difficulties.tolist() == sorted(set(found.difficulties.tolist()))
        assert [found.tokens(i).tolist() for i in range(len(found))] == [
            plain.examples(client, "train").tokens(i).tolist() for i in range(len(found))
        ]


@pytest.mark.parametrize(
    ("grade", "told"),
    [
        ("easy", "graded.jsonl:.*grade holds 'easy', where a finite number is needed"),
        (None, "grade holds nothing"),
        (True, "grade holds True"),
        ("nan", "grade holds 'nan'"),
        ([1], "grade holds a nested value"),
    ],
    ids=["text", "nothing", "truth", "not-a-number", "nested"],
)
def test_a_record_without_a_difficulty_is_told(source, tmp_path, grade, told):
    file = graded(source, tmp_path / "graded.jsonl", lambda _: grade)
    with pytest.raises(UserError, match=told):
        open_data(load_recipe(settings(file, {"difficulty": {"column": "grade"}})), tmp_path)
    with pytest.raises(UserError, match=r"local.curriculum.difficulty.column: .* no field 'grad'.*") as caught:
        open_data(load_recipe(settings(file, {"difficulty": {"column": "grad"}})), tmp_path)
    assert caught.value.hint == "did you mean 'grade'?"


@pytest.mark.parametrize("difficulty", ["length", {"column": "grade"}], ids=["length", "column"])
def test_a_client_trains_as_one_that_has_no_other_examples(source, tmp_path, difficulty):
    """A round of one client: the federation's adapter is what plain training on the shorter half gives."""
    torch.set_num_threads(1)
    source = graded(source, tmp_path / "graded.jsonl", lambda place: 7 * place % 31)
    values = settings(
        source, {"difficulty": difficulty, "start": 0.5}, federation={"rounds": 1, "clients_per_round": 1}
    )
    run(values, tmp_path / "run")
    ours = safetensors.torch.load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    events = read_events(tmp_path / "run" / "events.jsonl")
    client = next(event["clients"][0] for event in events if event["event"] == "round")
    checked = load_recipe(values)
    session = open_session(checked, tmp_path / "plain")
    examples = session.data.examples(client, "train")
    known = examples.lengths if difficulty == "length" else examples.difficulties
    assert len(set(known.tolist())) > 1
    order = np.argsort(known, kind="stable")
    half = np.sort(order[: 6 * math.ceil(math.ceil(len(order) / 6) / 2)])
    batches = round_batches(len(half), checked.local, 6, checked.seed, 1, client)
    work = ClientWork(client, examples.subset(half), batches, session.grouped.initial(checked.seed))
    training = LocalTraining(local_optimizer(checked.local), 3e-3, 0.5, 1)
    plain = train_cohort(session.model, session.grouped, [work], training)[0].adapter
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["ditto", "scaffold", "fedsa_lora", "hetlora", "fedbuff"])
def test_it_composes_with_algorithms(source, tmp_path, algorithm):
    federation = {"algorithm": algorithm}
    if algorithm == "fedbuff":
        algorithm = {"name": "fedbuff", "buffer_size": 2}
        federation = {"algorithm": algorithm, "clients_per_round": 2, "participation": {"clock": {}}}
    alone = run(settings(source, FISHER, federation=federation, runtime={"cohort": 1}), tmp_path / "alone")
    together = run(settings(source, FISHER, federation=federation, runtime={"cohort": 3}), tmp_path / "together")
    assert without_files(together) == without_files(alone)


@pytest.mark.long
def test_killed_and_resumed_or_shared_out_it_ends_with_the_same_bytes(source, tmp_path):
    file = tmp_path / "recipe.yaml"
    values = settings(source, {**FISHER, "refresh": 2}, baselines=["local", "centralized"])
    file.write_text(yaml.safe_dump(values))
    undisturbed = run(values, tmp_path / "undisturbed")
    out = tmp_path / "killed"
    killed_after(Command("run", file, "--out", out), out, 3, 0.1)
    Command("run", file, "--out", out, "--resume").finish()
    assert outcome(out) == undisturbed
    Command("run", file, "--out", tmp_path / "shared", "--processes", "2").finish()
    assert without_files(outcome(tmp_path / "shared")) == without_files(undisturbed)
