"""From clients' updates to the next adapter: functions on named tensors, usable without the rest of Fedloom."""

from fedloom.aggregation.base import Algorithm, State, Tensors, Update
from fedloom.aggregation.registry import algorithm

__all__ = ["Algorithm", "State", "Tensors", "Update", "algorithm"]
