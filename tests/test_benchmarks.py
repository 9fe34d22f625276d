"""The benchmarks run, take the options they share, and count operations as torch counts them."""

import json
import mmap
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
LIBRARIES = {
    "cells", "fibecfed_cells", "fibecfed_tables", "harness", "jcpba_cells", "jcpba_tables", "line_charts", "setting",
    "sides",
}  # fmt: skip
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in LIBRARIES)


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch):
    """Scripts find the modules beside them."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_it_compares_and_takes_the_shared_options(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--json" in printed
    assert "--quick" in printed
    first = (FOLDER / f"{name}.py").read_text().removeprefix('"""').split()[:4]
    assert first == printed.partition("\n\n")[2].split()[:4], "its docstring is its help"


def test_make_bench_runs_every_benchmark():
    printed = subprocess.run(["make", "-n", "-B", "bench"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(re.findall(r"benchmarks/(\w+)\.py", printed.stdout)) == BENCHMARKS
    explained = re.findall(
        r"^`benchmarks/(\w+)\.py`", (ROOT / "docs" / "performance.md").read_text(), flags=re.MULTILINE
    )
    assert sorted(explained) == BENCHMARKS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is skipped")
def test_a_benchmark_that_lacks_its_device_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(tmp_path / "gpu.json")])
    runpy.run_path(str(FOLDER / "gpu.py"), run_name="__main__")
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["skipped"] == "no CUDA device here"
    assert written["machine"]["torch"] == torch.__version__
    assert "no CUDA device here" in capsys.readouterr().out


def test_sides_take_turns_in_a_rotating_order():
    import harness

    calls = []
    sides = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = harness.take_turns(sides, repetitions=3, warm_up=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_peak_memory_counts_from_where_it_was_reset():
    import harness

    before = harness.current_memory()
    harness.reset_peak_memory()
    # From the system, not from memory that earlier tests have freed and this process has kept.
    with mmap.mmap(-1, 48 << 20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    assert 40 << 20 < harness.peak_memory() - before < 80 << 20


@pytest.mark.parametrize("key_heads", [4, 2])
def test_needed_operations_are_those_torch_counts(key_heads):
    """A plain PEFT step on one sequence, every position labelled, masked half of attention added back."""
    import setting

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
    )
    length, rank = 24, 4
    adapter = peft.LoraConfig(r=rank, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(LlamaForCausalLM(config).to(torch.float32), adapter)
    model.set_attn_implementation("eager")
    tokens = torch.randint(config.vocab_size, (1, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    masked = length * (length - 1) // 2
    expected = setting.needed_flops(config, [length], labels=length, rank=rank)
    # Query-key and probability-value products, forward and backward, but for the first layer's keys.
    expected += 2.0 * masked * config.hidden_size * (6 * config.num_hidden_layers - 1)
    assert counter.get_total_flops() == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_runs_through(name, tmp_path, shared):
    file = tmp_path / "numbers.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert json.loads(file.read_text())
