# The whole interface for a contributor: make quickstart | test | check | bench

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check bench clean

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv/bench: .venv/base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,bench]"
	touch $@

quickstart: .venv/base
	$(BIN)/fedloom run recipes/quickstart.yaml --out runs/quickstart --seeds 3 --resume

# Two processes, a file of tests at a time: most tests wait for processes of their own to start.
test: .venv/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not long"

# Set BENCH_OPTIONS=--quick to see in minutes whether all of them run.
bench: .venv/bench
	$(BIN)/python benchmarks/head.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/aggregation.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/gpu.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/fisher.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/pruning.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/preferences.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/cohort.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/cohort_exactness.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/frozen_prefix.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/generation.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/scale.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/distributed.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/compare_cost.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/vs_trl.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/lora_aggregation.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/tune_quickstart.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/attacks.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/federated_study.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/four_domains.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/adapter_kinds.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/fibecfed.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/jcpba.py $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/wireless.py $(BENCH_OPTIONS)

clean:
	rm -rf .venv runs
