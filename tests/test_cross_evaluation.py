"""evaluation.cross: the matrix holds what evaluating one adapter on one client's test gives, and adds nothing else."""

import json

import pytest

import fedloom
from fedloom.errors import UserError
from fedloom.recipe import load_recipe
from fedloom.report.cross import closing_cross_table, cross_rows, mean_rows
from fedloom.runtime.exchange import personal_adapter
from fedloom.session import open_session
from tests.federated_runs import recipe, write_examples
from tests.user_errors import contains

CLIENTS = ("ada", "bo", "cyd")


def values(tmp_path, growth=5):
    source = write_examples(tmp_path / "words.jsonl", clients=CLIENTS, growth=growth)
    made = recipe(source, federation={"rounds": 1, "clients_per_round": 3}, evaluation={"cross": True})
    return {**made, "baselines": ["local", "centralized"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross")
    fedloom.run(values(folder), folder / "run", seeds=2)
    return folder / "run"


def test_the_matrix_is_what_each_adapter_gives_on_each_test(run):
    out = run / "seed-0"
    metrics = json.loads((out / "metrics.json").read_text())
    rows = {(row["arm"], row["client"]): row["on"] for row in metrics["cross"]}
    shared = [("base", None), ("federated", None), ("centralized", None)]
    assert list(rows) == [shared[0], *(("local", client) for client in CLIENTS), *shared[1:]]
    assert all(list(on) == list(CLIENTS) for on in rows.values())
    session = open_session(load_recipe(out / "recipe.yaml"), out)
    for client in CLIENTS:
        adapter = personal_adapter(session.store, "local", client, 1)
        alone = session.evaluator.shared(adapter)["clients"]
        assert rows["local", client] == {test: {"loss": one["loss"]} for test, one in alone.items()}
        assert rows["local", client][client]["loss"] == metrics["baselines"]["local"]["clients"][client]["loss"]
    federated = {test: {"loss": one["loss"]} for test, one in metrics["eval"]["clients"].items()}
    assert rows["federated", None] == federated


def test_seeds_are_averaged_cell_by_cell_and_shown(run):
    seeds = [json.loads((run / f"seed-{seed}" / "metrics.json").read_text())["cross"] for seed in (0, 1)]
    metrics = json.loads((run / "metrics.json").read_text())
    cell = next(row for row in metrics["cross"] if row["client"] == "bo")["on"]["cyd"]
    one, two = (next(row for row in rows if row["client"] == "bo")["on"]["cyd"]["loss"] for rows in seeds)
    assert cell["loss"] == pytest.approx((one + two) / 2)
    assert cell["loss_sd"] == pytest.approx(abs(one - two) / 2**0.5)
    table = closing_cross_table(metrics)
    assert [column.header.plain if hasattr(column.header, "plain") else "" for column in table.columns[1:]] == [
        *CLIENTS
    ]
    assert table.row_count == 6
    page = (run / "report.html").read_text()
    assert "Every adapter on every client's test" in page
    assert "Each client alone: bo" in page


def test_only_tests_and_adapters_that_all_seeds_have_are_averaged():
    first = [
        {"arm": "local", "client": "a", "on": {"a": {"loss": 1.0}, "b": {"loss": 2.0}}},
        {"arm": "local", "client": "b", "on": {"a": {"loss": 1.0}}},
    ]
    second = [{"arm": "local", "client": "a", "on": {"a": {"loss": 3.0}}}]
    assert mean_rows([first, second]) == [
        {"arm": "local", "client": "a", "on": {"a": {"loss": 2.0, "loss_sd": pytest.approx(2**0.5)}}}
    ]


def test_a_personalised_algorithm_has_what_it_shares_and_what_clients_keep(tmp_path):
    made = {**values(tmp_path), "baselines": []}
    made["federation"] = {**made["federation"], "algorithm": {"name": "ditto"}}
    metrics = fedloom.run(made, tmp_path / "run").metrics
    assert [(row["arm"], row["client"]) for row in metrics["cross"]] == [
        ("base", None),
        ("federated", None),
        *(("federated", client) for client in CLIENTS),
    ]
    own = [row["on"][row["client"]]["loss"] for row in metrics["cross"][2:]]
    assert sum(own) / 3 == pytest.approx(metrics["eval"]["personal"]["loss"])
    assert cross_rows({"federated": metrics["eval"], "base": metrics["baselines"]["base"]}) == metrics["cross"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"baselines": ["centralized"]}, ["evaluation.cross has no effect", "add baselines: [local]"]),
        (
            {"data": {"partition": {"kind": "iid", "clients": 1}}, "federation": {"clients_per_round": 1}},
            ["evaluation.cross has no effect: 1 client"],
        ),
        (
            {"data": {"partition": {"kind": "iid", "clients": 34}, "split": {"test": 0.5}}},
            ["evaluation.cross: 3", "more than 32", "evaluation.max_clients"],
        ),
    ],
)
def test_a_matrix_without_sense_is_refused(tmp_path, changes, parts):
    made = values(tmp_path, growth=40)
    for name, section in changes.items():
        made[name] = {**made[name], **section} if isinstance(section, dict) else section
    with pytest.raises(UserError) as refused:
        fedloom.run(made, tmp_path / "run")
    contains(str(refused.value), *parts)
