"""Where the clients of a round are trained. The algorithms never learn which runtime runs."""

from fedloom.runtime.base import RoundPlan, Runtime

__all__ = ["RoundPlan", "Runtime"]
