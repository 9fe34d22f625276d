"""Evaluation suites: published benchmarks as visible task files, run on a base model and on its adapters."""
