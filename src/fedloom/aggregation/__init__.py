"""From clients' updates to the next adapter: functions on named tensors, usable without the rest of Fedloom."""

from fedloom.aggregation.base import Algorithm, FromRun, RejectedUpdate, State, Tensors, Update
from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule
from fedloom.aggregation.folding import Accumulator, accepted, fold
from fedloom.aggregation.registry import algorithm

__all__ = [
    "Accumulator",
    "Algorithm",
    "ClientFinish",
    "ClientRound",
    "ClientRule",
    "FromRun",
    "RejectedUpdate",
    "State",
    "Tensors",
    "Update",
    "accepted",
    "algorithm",
    "fold",
]
