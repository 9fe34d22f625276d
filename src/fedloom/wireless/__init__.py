"""Fine-tuning over a wireless network: channels, latency, and who prunes how much with how much bandwidth (JCPBA).

Joint client-specific pruning and bandwidth allocation is the subject of arXiv 2602.01024. Its equations are not
public: the model and the solvers here are our own, complete ones of the same problem. NumPy and SciPy only, all
clients at once.
"""

from fedloom.wireless.allocation import Allocation
from fedloom.wireless.baselines import BASELINES, alternate, baseline
from fedloom.wireless.descent import solve
from fedloom.wireless.exact import solve_exact
from fedloom.wireless.problem import RoundProblem
from fedloom.wireless.rounding import with_whole_units
from fedloom.wireless.total import TotalPlan, solve_total

__all__ = [
    "BASELINES",
    "Allocation",
    "RoundProblem",
    "TotalPlan",
    "alternate",
    "baseline",
    "solve",
    "solve_exact",
    "solve_total",
    "with_whole_units",
]
