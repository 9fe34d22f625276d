"""Benchmarks: tasks in visible files, the model under test, outcomes that are kept (docs/evaluation.md)."""
