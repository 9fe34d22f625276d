"""Fedloom fine-tunes large language models across data owners who cannot pool their data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloom.comparison.compare import Comparison, compare
    from fedloom.runs import RunResult, run

__version__ = "0.1.0"
__all__ = ["Comparison", "RunResult", "__version__", "compare", "run"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only those who run something pay for it.
    if name in {"run", "RunResult"}:
        from fedloom import runs

        return getattr(runs, name)
    if name in {"compare", "Comparison"}:
        from fedloom.comparison import compare as comparisons

        return getattr(comparisons, name)
    raise AttributeError(f"module 'fedloom' has no attribute {name!r}")
