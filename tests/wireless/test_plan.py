"""Scenarios and the commands: keyed draws, pages, no torch, and one line for every mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedloom.cli import main
from fedloom.errors import UserError
from fedloom.recipe import load_recipe
from fedloom.wireless.network import Network
from fedloom.wireless.plan import NAMES, plan_round
from fedloom.wireless.scenario import check_scenario, load_scenario, shipped_scenarios
from tests.processes import carry_out
from tests.wireless.problems import EXAMPLES, GAINS, worked_example

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wireless.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["fedloom", "wireless", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_page_from_start_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, text in BLOCKS:
        if language == "yaml":
            Path(text.split()[1]).write_text(text)
        elif language == "python":
            ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
            assert ran.splitlines() == [line.split("# ")[1] for line in text.splitlines() if line.startswith("print")]
        else:
            for line in text.splitlines():
                carry_out(line.split(" > ")[0])
    assert load_recipe("in-a-cell.yaml").federation.participation.wireless.scheme == "jcpba"
    printed = capsys.readouterr().out
    plan = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert plan["round"] == 3
    assert set(plan["schemes"]) == set(NAMES)
    assert plan["schemes"]["jcpba"]["latency_s"] == pytest.approx(max(plan["schemes"]["jcpba"]["client_latency_s"]))
    pages = {path.name for path in Path().glob("*.html")}
    assert pages == {
        "default-plan.html",
        "default-sweep.html",
        "budget.html",
        "phones-and-laptops-sweep.html",
        "campus-plan.html",
    }
    page = Path("campus-plan.html").read_text()
    assert page.count("<svg") == len(NAMES) + 2 * 20
    assert all(name in page for name in NAMES.values())
    assert "simulated" in page
    assert not re.search(r"(src|href)=", page)


@pytest.mark.parametrize(
    "code",
    [
        "import fedloom.wireless",
        "import sys; sys.argv = 'fedloom wireless plan default'.split(); from fedloom.cli import app\n"
        "app(standalone_mode=False)",
    ],
    ids=["import", "plan"],
)
def test_torch_is_not_imported(tmp_path, code):
    check = "\nimport sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], cwd=tmp_path, check=True, capture_output=True)


def test_shipped_scenarios_load_and_the_default_is_the_default():
    assert {"default", "narrow-band", "phones-and-laptops"} == set(shipped_scenarios())
    for name in shipped_scenarios():
        assert load_scenario(name).name == name
    assert load_scenario("default") == check_scenario({"name": "default"})


def test_a_client_is_the_same_in_every_cohort():
    scenario = load_scenario("phones-and-laptops")
    everybody = Network(scenario)
    some = Network(scenario, ["client-7", "client-2"])
    for field in ("distance_m", "device", "flop_per_second", "examples"):
        np.testing.assert_array_equal(getattr(some, field), getattr(everybody, field)[[7, 2]])
    np.testing.assert_array_equal(some.gains(4), everybody.gains(4)[[7, 2]])
    assert np.all(some.gains(4) != some.gains(5))


@pytest.mark.parametrize(
    ("fading", "variance"), [({"kind": "rayleigh"}, 1.0), ({"kind": "rician", "k_factor": 3.0}, 7 / 16)]
)
def test_fading_has_mean_one_and_its_own_variance(fading, variance):
    """Of |h|^2: 1 for Rayleigh, (1 + 2K) / (1 + K)^2 for Rician."""
    still = Network(check_scenario({"clients": 40, "fading": {"kind": "none"}}))
    moving = Network(check_scenario({"clients": 40, "fading": fading}))
    powers = np.concatenate([moving.gains(number) / still.gains(number) for number in range(100)])
    assert powers.mean() == pytest.approx(1.0, abs=0.06)
    assert powers.var() == pytest.approx(variance, abs=0.15)
    np.testing.assert_array_equal(still.gains(0), still.gains(1))


def test_a_trace_gives_the_worked_example(tmp_path):
    """Gains, broadcast and work of the worked example, by way of a scenario; the trace repeats."""
    gain_db = 10 * np.log10(GAINS * 3.981071705534986e-21 / 10 ** (2.3 - 3))
    lines = [f"{number},c{k},{gain_db[k] - number}" for number in range(2) for k in range(3)]
    (tmp_path / "gains.csv").write_text("\n".join(["round,client,gain_db", *lines]))
    scenario = check_scenario(
        {
            "trace": str(tmp_path / "gains.csv"),
            "cell": {"bandwidth_hz": 1e6},
            "devices": [{"name": "one", "flop_per_second": {"low": 1e12, "high": 1e12}}],
        }
    )
    network = Network(scenario, examples=EXAMPLES)
    assert network.clients == ("c0", "c1", "c2")
    problem, expected = network.problem(0), worked_example()
    for field in ("channel_gain_hz", "fixed_latency_s", "weights", "upload_bits", "max_prune"):
        np.testing.assert_allclose(getattr(problem, field), getattr(expected, field), rtol=2e-9)
    np.testing.assert_allclose(problem.compute_s, expected.compute_s * [1, 2, 4], rtol=1e-12)
    np.testing.assert_array_equal(network.gains(3), network.gains(1))
    assert plan_round(scenario).schemes["jcpba"].latency_s > 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("round,client,gain\n0,a,-90", "gains.csv:2 has the fields round, client, gain, not round, client, gain_db"),
        ("round,client,gain_db\n0,a,loud", "gains.csv:2: gain_db is 'loud', not a number"),
        ("round,client,gain_db\n0.5,a,-90", "gains.csv:2: round is '0.5', not a whole number"),
        ("round,client,gain_db\n0,a,-90\n0,a,-91", "gains.csv:3: 'a' has a gain in round 0 already"),
        ("round,client,gain_db\n0,a,-90\n0,b,-91\n1,a,-90", "has no gain of 'b' in round 1"),
        ("round,client,gain_db\n", "holds no gains"),
    ],
    ids=["fields", "number", "round", "twice", "missing", "empty"],
)
def test_mistakes_in_a_trace(tmp_path, lines, message):
    (tmp_path / "gains.csv").write_text(lines)
    with pytest.raises(UserError, match=re.escape(message)):
        Network(check_scenario({"trace": str(tmp_path / "gains.csv")}))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cell: {bandwith_hz: 1e6}", ["cell.bandwith_hz: unknown key", "did you mean 'bandwidth_hz'?"]),
        ("cell: {bandwidth_hz: 0}", ["cell.bandwidth_hz: 0 is not a number above 0"]),
        ("fading: {kind: rice}", ["fading.kind: 'rice' is not one of: rayleigh, rician, none", "'rician'"]),
        ("fading: {kind: rician}", ["k_factor: is required by kind: rician"]),
        ("fading: {k_factor: 2}", ["k_factor has no effect with kind: rayleigh"]),
        ("work: {examples: {low: 5, high: 3}}", ["work.examples: low is 5, above high, 3"]),
        ("pruning: {max_rate: 1}", ["pruning.max_rate: 1 is not a number below 1"]),
        ("pruning: {budget: -0.1}", ["pruning.budget: -0.1 is not a number from 0 up"]),
        ("{trace: gains.csv, clients: 5}", ["clients has no effect with a trace"]),
        ("{trace: gains.csv, cell: {distance_m: {low: 1, high: 2}}}", ["cell.distance_m has no effect with a trace"]),
        ("trace: gains.csv", ["trace: no such file: gains.csv"]),
        ("devices: []", ["devices: [] is not"]),
        ("name: a/b", ["name: 'a/b' is not text of the form"]),
    ],
)
def test_mistakes_in_a_scenario(tmp_path, monkeypatch, capsys, text, parts):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    error = told(monkeypatch, capsys, "plan", "mine.yaml")
    assert all(part in error for part in parts), error
    assert not list(Path().glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["plan", "defalt"], "did you mean the shipped scenario 'default'?"),
        (["plan", "default", "--out", "nowhere/plan.html"], "--out: no such folder: nowhere"),
        (["sweep", "default", "--vary", "clents"], "did you mean 'clients'?"),
        (["sweep", "default", "--vary", "clients=2.5"], "clients: 2.5 is not a whole number"),
        (["sweep", "default", "--vary", "clients=inf"], "clients: inf is not"),
        (["sweep", "default", "--vary", "bandwidth=-1"], "cell.bandwidth_hz: -1.0 is not a number above 0"),
        (["sweep", "default", "--vary", "budget=much"], "--vary budget=much: expected numbers"),
        (["sweep", "default", "--vary", "budget", "--rounds", "0"], "--rounds: 0 is not a number from 1 up"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_a_command(tmp_path, monkeypatch, capsys, arguments, part):
    monkeypatch.chdir(tmp_path)
    assert part in told(monkeypatch, capsys, *arguments)
