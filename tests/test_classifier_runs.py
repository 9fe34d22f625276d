"""Federations of classifiers through the real command: they learn, resume to the same bytes, in any cohorts."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fedloom
from fedloom.checkpoint import save_checkpoint
from fedloom.cli import app
from fedloom.report.events import read_events
from tests.encoders import tiny_bert, tiny_roberta
from tests.federated_runs import outcome

GOOD, BAD = ("great", "good", "best", "fun"), ("terrible", "bad", "dull", "slow")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with both encoders, and labelled texts of four owners of unequal size."""
    folder = tmp_path_factory.mktemp("classifiers")
    tiny_bert(folder / "bert")
    tiny_roberta(folder / "roberta")
    generator, rows = np.random.default_rng(0), []
    for number, owner in enumerate(("ada", "bo", "cyd", "dee")):
        for _ in range(30 + 10 * number):
            good = bool(generator.random() < 0.3 + 0.1 * number)
            words = generator.choice(GOOD if good else BAD, int(generator.integers(1, 6)))
            text = f"it was a {' and '.join(words)} film"
            rows.append({"text": text, "label": "good" if good else "bad", "owner": owner})
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(place: Path, base: str = "bert", **sections):
    values = {
        "name": "reviews",
        "task": {"kind": "classification", "head": "linear"},
        "model": {"base": str(place / base), "dtype": "float32", "adapter": {"rank": 4}},
        "data": {
            "source": str(place / "reviews.jsonl"),
            "fields": {"text": "text", "label": "label"},
            "max_tokens": 64,
            "partition": {"kind": "by_key", "key": "owner"},
        },
        "federation": {"rounds": 3, "clients_per_round": 3},
        "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        "runtime": {"threads": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values


def run(values, out: Path, *options: str):
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(values))
    result = CliRunner().invoke(app, ["run", str(file), "--out", str(out), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize(("base", "least"), [("bert", 1.0), ("roberta", 0.8)])
def test_a_federation_learns_what_words_mean_and_tells_it(place, tmp_path, base, least):
    values = recipe(place, base, federation={"rounds": 8, "clients_per_round": 4})
    assert run(values, tmp_path / "run")["eval"]["accuracy"] >= least
    for words, label in (("great and fun", "good"), ("dull and terrible", "bad")):
        told = CliRunner().invoke(app, ["classify", str(tmp_path / "run"), f"it was a {words} film"])
        assert told.output.split() == [label]


def interrupted(directory, state):
    """Someone stops the run when the second round's checkpoint is there."""
    save_checkpoint(directory, state)
    if state.round == 2:
        raise KeyboardInterrupt


WORDS = {"labels": ["bad", "good"], "words": ["terrible", "great"], "pattern": "{text} it was {mask} ."}


@pytest.mark.parametrize("task", [{"head": "linear"}, {"head": "label_words", **WORDS}], ids=lambda task: task["head"])
def test_cohorts_and_resumed_runs_end_with_the_same_bytes(place, tmp_path, monkeypatch, task):
    values = recipe(place, task={"kind": "classification", **task}, evaluation={"every": 1})
    found = []
    for name, cohort in (("alone", 1), ("together", 3), ("resumed", "auto")):
        settings = {**values, "runtime": {"threads": 1, "cohort": cohort}}
        if name == "resumed":
            with monkeypatch.context() as context:
                context.setattr(fedloom.federation, "save_checkpoint", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    fedloom.run(settings, tmp_path / name)
        run(settings, tmp_path / name, *(["--resume"] if name == "resumed" else []))
        found.append(outcome(tmp_path / name)["adapters"])
    assert found[0] == found[1] == found[2]


def test_a_curriculum_of_classified_texts_is_the_same_in_any_cohort(place, tmp_path):
    """By Fisher information, measured for several examples in one pass, and compared with other orders."""
    local = {"curriculum": {"start": 0.5, "full_after": 1.0}}
    values = recipe(place, federation={"rounds": 2}, local=local)
    run(values, tmp_path / "alone", "--set", "runtime.cohort=1")
    run(values, tmp_path / "together", "--set", "runtime.cohort=3")
    alone, together = (outcome(tmp_path / name) for name in ("alone", "together"))
    assert together["adapters"] == alone["adapters"]
    assert together["metrics"] == alone["metrics"]
    shares = [event["examples_share"] for event in alone["events"] if event["event"] == "round"]
    assert 0 < shares[0] < shares[1] < 1
    assert alone["metrics"]["curriculum_tokens"] > 0
    out, orders = tmp_path / "compared", "local.curriculum.difficulty=fisher,length"
    command = ["compare", str(tmp_path / "alone.yaml"), "--vary", orders, "--seeds", "1", "--out", str(out)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    # Of the two orders only one needs passes.
    assert sum("curriculum_tokens" in json.loads(path.read_text()) for path in out.rglob("metrics.json")) == 1


CHOSEN = {
    "federation": {"rounds": 3, "clients_per_round": 3, "layers": {"number": 1, "examples": 4}},
    "local": {
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.01,
        "curriculum": {"start": 0.4},
        "sparse": {"share": 0.5},
    },
}


def test_the_page_says_what_was_shared_and_used_and_what_the_base_is(place, tmp_path):
    run(recipe(place, **CHOSEN), tmp_path / "run")
    events = read_events(tmp_path / "run" / "events.jsonl")
    assert events[0]["fresh_head"]
    chosen = next(event["chosen"] for event in events if event["event"] == "layers")
    shares = [event.get("examples_share", 1.0) for event in events if event["event"] == "round"]
    assert shares[0] < shares[1] < shares[2] == 1
    page = (tmp_path / "run" / "report.html").read_text()
    for said in (
        f"1 of 2: layer {chosen[0]}, counted from 0",
        f"{100 * shares[0]:.1f} % at first, {100 * sum(shares) / 3:.1f} % on average",
        "its classification head is random",
        "own mixture, personal adapters",
        "rare classes count as much as frequent ones",
        "0 for guessing",
    ):
        assert said in page


def test_variants_of_a_comparison_have_data_of_their_own_task(place, tmp_path):
    """What a pattern says is in the tokens; a comparison shares data between variants of one task only."""
    values = recipe(place, task={"kind": "classification", "head": "label_words", **WORDS}, federation={"rounds": 1})
    patterns = [WORDS["pattern"], "a {mask} film : {text}"]
    found = fedloom.compare(values, tmp_path / "both", {"task.pattern": patterns}, seeds=1, baselines=False)
    for place, (variant, pattern) in enumerate(zip(found.results["variants"], patterns, strict=True)):
        alone = fedloom.run(values, tmp_path / str(place), [f"task.pattern={json.dumps(pattern)}"]).metrics["eval"]
        cell = json.loads((found.out / variant["runs"][0]["folder"] / "metrics.json").read_text())["eval"]
        assert cell == alone
