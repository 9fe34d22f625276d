"""Who takes part in a round, and when: sampling, availability, drop-outs and deadlines on a simulated clock."""

from fedloom.participation.asynchronous import Arrival, AsynchronousSchedule, Flush
from fedloom.participation.clock import Clock
from fedloom.participation.sampling import Participants, Participation, check_participation
from fedloom.participation.trace import AvailabilityTrace, read_trace

__all__ = [
    "Arrival",
    "AsynchronousSchedule",
    "AvailabilityTrace",
    "Clock",
    "Flush",
    "Participants",
    "Participation",
    "check_participation",
    "read_trace",
]
