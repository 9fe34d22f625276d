"""Problems for the tests: the worked example of docs/wireless.md, and hard random ones."""

import numpy as np
from hypothesis import strategies as st

from fedloom.wireless import RoundProblem

GAINS = np.array([8.413230173e7, 7.178340951e8, 5.360203106e10])
FLOP_PER_TOKEN = 4 * 124e6 + 6 * 294_912
EXAMPLES = np.array([200, 300, 500])
SPEEDS = np.array([1e12, 2e12, 4e12])


def worked_example(**changed):
    values = {
        "channel_gain_hz": GAINS,
        "fixed_latency_s": 1.081829642,
        "compute_s": EXAMPLES * 128 * FLOP_PER_TOKEN / SPEEDS,
        "upload_bits": 9_437_184,
        "weights": EXAMPLES / EXAMPLES.sum(),
        "bandwidth_hz": 1e6,
        "prune_budget": 0.3,
        "max_prune": 0.8,
    }
    return RoundProblem(**{**values, **changed})


def random_problem(generator):
    """1 to 64 clients; gains of up to twelve decades, no compute, unequal latencies, active bounds, slack budgets."""
    clients = int(generator.integers(1, 65))
    band = 10 ** generator.uniform(4, 8)
    reach = generator.choice([0.5, 2.0, 4.0])
    bits = 10 ** generator.uniform(4, 8, clients if generator.random() < 0.5 else 1) * np.ones(clients)
    second = np.median(bits) * clients / band
    works = generator.random(clients) > 0.1 * generator.integers(0, 3)
    most = generator.uniform(0, 0.95, clients)
    weights = generator.dirichlet(np.ones(clients))
    if generator.random() < 0.5:
        most = np.full(clients, generator.choice([0.1, 0.5, 0.8, 0.95]))
    return RoundProblem(
        channel_gain_hz=band * 10 ** generator.uniform(-reach, 2 * reach, clients),
        fixed_latency_s=second * generator.choice([0.0, 0.1, 10.0]) * generator.random(clients),
        compute_s=second * 10 ** generator.uniform(-2, 2, clients) * works,
        upload_bits=bits,
        weights=weights,
        bandwidth_hz=band,
        prune_budget=float(weights @ most) * generator.choice([0.0, 1e-6, 0.05, 0.3, 0.7, 0.95, 0.999999, 1.2]),
        max_prune=most,
    )


def moderate_problems():
    """Hypothesis strategy: some clients, no extremes, so that the answer itself is well determined."""

    @st.composite
    def drawn(draw):
        clients = draw(st.integers(1, 8))

        def each(low, high):
            return np.array(draw(st.lists(st.floats(low, high), min_size=clients, max_size=clients)))

        examples = each(1.0, 10.0)
        return RoundProblem(
            channel_gain_hz=10 ** each(6.0, 11.0),
            fixed_latency_s=each(0.0, 3.0),
            compute_s=each(0.5, 10.0),
            upload_bits=10 ** each(6.0, 7.0),
            weights=examples / examples.sum(),
            bandwidth_hz=draw(st.floats(1e5, 1e7)),
            prune_budget=draw(st.floats(0.0, 0.7)),
            max_prune=draw(st.floats(0.3, 0.9)),
        )

    return drawn()
