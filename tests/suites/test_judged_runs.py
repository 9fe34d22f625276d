"""`fedloom evaluate --judge` on a real run: answers first, judged later, killed and resumed, nothing paid twice."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from fedloom.errors import UserError
from fedloom.runs import run
from tests.federated_runs import recipe, write_examples
from tests.processes import Command, carry_out
from tests.suites.judge_server import Scripted, judge_server, said_to
from tests.suites.pocket_runs import pocket_run

SUITE = "mt_bench,advbench,fedllm_aya"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_run(tmp_path_factory.mktemp("judged"))


def command(finished: Path, shared: Path, *options: str) -> str:
    words = ["fedloom evaluate", str(finished), "--suite", SUITE, "--data", str(shared / "data" / "eval"), "--limit 2"]
    return " ".join([*words, "--baseline base", *options])


def results(finished: Path) -> dict[str, Any]:
    tasks: dict[str, Any] = json.loads((finished / "evaluation.json").read_text())["tasks"]
    return {name: {key: value for key, value in entry.items() if key != "command"} for name, entry in tasks.items()}


def answers(finished: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in finished.glob("evaluations/*/*.jsonl") if "judged" not in path.name
    }


def opinion(request: dict[str, Any], before: int) -> Scripted:
    """A judge who says the same of the same, whatever it is."""
    text = said_to(request)
    if "[[harmless]]" in text:
        return Scripted(text="It is nonsense. [[harmless]]")
    return Scripted(text="[[C]]" if "[[A]]" in text else f"Rating: [[{1 + len(text) % 10}]]")


def test_answers_are_kept_judged_later_and_paid_once(
    finished: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(command(finished, shared))
    assert "not judged" in capsys.readouterr().out
    before, unjudged = answers(finished), results(finished)
    assert len(before) == 6
    for entry in unjudged.values():
        assert entry["adapter"]["score"] is None
        assert "judge" not in entry
        assert "difference" not in entry
    assert set(unjudged["advbench"]["adapter"]["measures"]) == {"refused_by_words"}

    with judge_server(opinion) as server:
        judge = f"--judge {server.url} --judge-model scripted --judge-prompt-price 1 --judge-completion-price 2"
        carry_out(command(finished, shared, judge))
        first, sent = results(finished), len(server.requests)
        told = capsys.readouterr().out
        # Again, at no cost, and with the same results.
        carry_out(command(finished, shared, judge))
        assert len(server.requests) == sent
        assert results(finished) == first
        # Another judge is asked anew about the same answers.
        carry_out(command(finished, shared, f"--judge {server.url} --judge-model another"))
        assert len(server.requests) == 2 * sent
    assert set(server.answered.values()) == {2}
    assert {name: content for name, content in answers(finished).items() if "comparison" not in name} == before

    assert first["advbench"]["adapter"]["score"] == first["advbench"]["base"]["score"] == 1.0
    for name in ("mt_bench", "fedllm_aya"):
        entry = first[name]
        assert 1.0 <= entry["adapter"]["score"] <= 10.0
        assert entry["difference"]["score"] == pytest.approx(entry["adapter"]["score"] - entry["base"]["score"])
        assert entry["comparison"]["win_rate"] == 0.5
    spent = first["mt_bench"]["judge"]
    # Two items of two turns: ratings of two subjects, and comparisons in two orders; what is the same is asked once.
    assert 8 < spent["replies"] <= 16
    assert spent["cost"] == pytest.approx((spent["prompt_tokens"] * 1 + spent["completion_tokens"] * 2) / 1e6)
    assert sent == sum(entry["judge"]["replies"] for entry in first.values())
    assert f"{sent} replies, {sent} of them new; {sent * 100} + {sent * 10} tokens, cost" in told
    judged = [json.loads(line) for line in (finished / "evaluations/mt_bench/adapter-judged.jsonl").open()]
    assert all(re.match(r"Rating: \[\[\d+\]\]", word) for outcome in judged for word in outcome["output"]["judge"])


def test_killed_in_the_midst_of_judging_and_resumed(finished: Path, shared: Path) -> None:
    stuck = True

    def script(request: dict[str, Any], before: int) -> Scripted:
        return Scripted(hang=60.0, drop=True) if stuck and len(server.requests) > 7 else opinion(request, before)

    with judge_server(script) as server:
        judge = f"--judge {server.url} --judge-model killed --judge-concurrency 2"
        killed = Command(*command(finished, shared, judge).split()[1:])
        while len(server.requests) < 9 and killed.process.is_alive():
            time.sleep(0.01)
        assert killed.kill()
        assert sum(server.answered.values()) == 7
        stuck = False
        carry_out(command(finished, shared, judge))
    entries = results(finished)
    assert set(server.answered.values()) == {1}
    # The two requests that were under way got no reply; all others were sent once.
    assert len(server.requests) == sum(entry["judge"]["replies"] for entry in entries.values()) + 2


def test_a_judge_without_anything_to_judge(finished: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fedloom.cli import main  # as a person would call it

    with pytest.MonkeyPatch.context() as patch:
        options = ["--suite", "arc_easy", "--data", str(shared / "data"), "--judge", "http://localhost:1/v1"]
        patch.setattr("sys.argv", ["fedloom", "evaluate", str(finished), *options, "--judge-model", "m"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert "--judge: none of the tasks has answers to judge" in capsys.readouterr().err


def test_a_run_in_training_asks_no_judge(shared: Path, tmp_path: Path) -> None:
    source = write_examples(tmp_path / "rows.jsonl", ("ada", "bo"))
    suites = {"names": ["vicuna_bench"], "data": str(shared / "data" / "eval")}
    values = recipe(source, federation={"rounds": 1, "clients_per_round": 2}, evaluation={"suites": suites})
    with pytest.raises(UserError, match=r"evaluation\.suites\.names: answers to vicuna_bench are scored by a judge"):
        run(values, tmp_path / "run")
