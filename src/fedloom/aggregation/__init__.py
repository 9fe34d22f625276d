"""From clients' updates to the next adapter: functions on named tensors, usable without the rest of Fedloom."""

from fedloom.aggregation.base import Algorithm, State, Tensors, Update
from fedloom.aggregation.folding import Accumulator, fold
from fedloom.aggregation.registry import algorithm

__all__ = ["Accumulator", "Algorithm", "State", "Tensors", "Update", "algorithm", "fold"]
