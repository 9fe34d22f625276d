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

quickstart: .venv/base
	$(BIN)/fedloom run recipes/quickstart.yaml --out runs/quickstart --seeds 3 --resume

test: .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not long"

bench: .venv/dev
	$(BIN)/python benchmarks/cohort_exactness.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/tune_quickstart.py

clean:
	rm -rf .venv runs
