"""Who takes part in a round, and when: sampling, availability, drop-outs and deadlines on a simulated clock."""

from fedloom.participation.asynchronous import Arrival, AsynchronousSchedule, Flush
from fedloom.participation.cell import Cell, CellRound, ClientTimes, scenario_fingerprint
from fedloom.participation.clock import Clock, Durations
from fedloom.participation.sampling import Participants, Participation, check_participation
from fedloom.participation.trace import AvailabilityTrace, read_trace

__all__ = [
    "Arrival",
    "AsynchronousSchedule",
    "AvailabilityTrace",
    "Cell",
    "CellRound",
    "ClientTimes",
    "Clock",
    "Durations",
    "Flush",
    "Participants",
    "Participation",
    "check_participation",
    "read_trace",
    "scenario_fingerprint",
]
