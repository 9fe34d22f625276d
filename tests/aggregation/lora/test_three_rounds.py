"""Three rounds of every rule against numpy, written from the equations with dense matrices and no factored trick.

Two layers and a head, four clients of whom three answer in a round, random updates.
"""

import numpy as np
import pytest

from fedloom.aggregation import Update, algorithm

from .adapters import A, B, R, base_of, dense, shares, tensor

LAYERS = {"a.q": (5, 7), "b.v": (6, 3)}
HEAD = "score.weight"
RANK, SCALE, SIZES, TURNS = 3, 2.0, [1, 2, 3, 4], [(0, 1, 2), (1, 2, 3), (3, 0, 2)]
MIXED = [1, 3, 2, 3]


def cut(matrix, name, rank):
    return matrix[:rank] if name.endswith(A) else matrix[:, :rank] if name.endswith(B) else matrix


def initial(draw, square):
    x = {HEAD: draw.normal(size=(2, 5))}
    for layer, (outputs, inputs) in LAYERS.items():
        x |= {layer + A: draw.normal(size=(RANK, inputs)), layer + B: draw.normal(size=(outputs, RANK))}
        if square:
            x[layer + R] = draw.normal(size=(RANK, RANK))
    # As the code under test holds them.
    return {name: value.astype(np.float32).astype(float) for name, value in x.items()}


def average(x, ys, p, ending):
    """The mean over one factor, and over the head, which follows FedAvg in every rule."""
    averaged = [name for name in x if name == HEAD or name.endswith(ending)]
    return x | {name: sum(weight * y[name] for weight, y in zip(p, ys, strict=True)) for name in averaged}


def one_factor(ending):
    return lambda x, ys, p, base, turn: (average(x, ys, p, ending), base)


def alternating(first, second):
    return lambda x, ys, p, base, turn: (average(x, ys, p, second if turn % 2 else first), base)


def mean_product(ys, p, layer):
    return sum(w * y[layer + B] @ y[layer + A] for w, y in zip(p, ys, strict=True))


def flora(x, ys, p, base, turn):
    base = {layer: base[layer] + SCALE * mean_product(ys, p, layer) for layer in LAYERS}
    # A is drawn anew: not to be computed, see `test_flora_draws_its_factors_anew`.
    return average(x, ys, p, HEAD) | {layer + B: np.zeros((LAYERS[layer][0], RANK)) for layer in LAYERS}, base


def flexlora(x, ys, p, base, turn):
    x = average(x, ys, p, HEAD)
    for layer in LAYERS:
        u, s, vh = np.linalg.svd(mean_product(ys, p, layer), full_matrices=False)
        signs = np.sign(u[np.abs(u).argmax(0), np.arange(u.shape[1])])
        x |= {layer + B: (u * signs * s)[:, :RANK], layer + A: (vh * signs[:, None])[:RANK]}
    return x, base


def hetlora(per_layer):
    def rule(x, ys, p, base, turn):
        x, norms = average(x, ys, p, HEAD), {}
        for layer in LAYERS:
            norms[layer] = np.array([np.linalg.norm(y[layer + B] @ y[layer + A]) for y in ys])
        of_model = np.sqrt(sum(of_layer**2 for of_layer in norms.values()))
        for layer in LAYERS:
            weights = shares(norms[layer] if per_layer else of_model)
            for name in (layer + A, layer + B):
                x[name] = np.zeros_like(x[name])
                for weight, y in zip(weights, ys, strict=True):
                    rows, columns = y[name].shape
                    x[name][:rows, :columns] += weight * y[name]
        return x, base

    return rule


def fedex(x, ys, p, base, turn):
    new = average(x, ys, p, (A, B))
    base = {
        layer: base[layer] + SCALE * (mean_product(ys, p, layer) - new[layer + B] @ new[layer + A]) for layer in LAYERS
    }
    return new, base


RUN = {"flora": {"scale": SCALE, "seed": 3}, "fedex_lora": {"scale": SCALE}}
CASES = {
    "ffa_lora": ("ffa_lora", {}, one_factor(B), {0: B, 1: B, 2: B}),
    "rolora": ("rolora", {}, alternating(B, A), {0: B, 1: A, 2: B}),
    "rolora, A first": ("rolora", {"first": "A"}, alternating(A, B), {0: A, 1: B, 2: A}),
    "fedsa_lora": ("fedsa_lora", {}, one_factor(A), {0: A, 1: A, 2: A}),
    "fed_sb": ("fed_sb", {}, one_factor(R), {0: R, 1: R, 2: R}),
    "flora": ("flora", {}, flora, {}),
    "flexlora": ("flexlora", {}, flexlora, {}),
    "hetlora": ("hetlora", {}, hetlora(per_layer=False), {}),
    "hetlora, each layer": ("hetlora", {"weighting": "layer_norms"}, hetlora(per_layer=True), {}),
    "fedex_lora": ("fedex_lora", {}, fedex, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_three_rounds(case):
    name, options, reference, sent_factor = CASES[case]
    draw = np.random.default_rng(len(case))
    expected, base = initial(draw, name == "fed_sb"), dict.fromkeys(LAYERS, 0.0)
    rule = algorithm(name, **RUN.get(name, {}), **options)
    adapter = {end: tensor(value) for end, value in expected.items()}
    state = rule.init(adapter)
    for turn, clients in enumerate(TURNS):
        ending = sent_factor.get(turn)
        assert rule.trained(state) == ("both" if name == "fedsa_lora" or ending is None else ending[6])
        ys, updates = [], []
        for k in clients:
            rank = MIXED[k] if rule.mixed_ranks else RANK
            sent = {n: cut(value, n, rank) for n, value in expected.items()}
            names = [n for n in sent if ending is None or n == HEAD or n.endswith(ending)]
            delta = {n: tensor(draw.normal(size=sent[n].shape)) for n in names}
            ys.append({n: value + dense(delta[n]) if n in delta else value for n, value in sent.items()})
            updates.append(Update(str(k), delta, SIZES[k]))
        p = shares([1.0] * 3 if name == "fedex_lora" else [SIZES[k] for k in clients])
        expected, base = reference(expected, ys, p, base, turn)
        adapter, state = rule.step(adapter, state, iter(updates))
        if name == "flora":
            expected |= {layer + A: dense(adapter[layer + A]) for layer in LAYERS}
        assert list(adapter) == list(expected)
        for end, value in adapter.items():
            np.testing.assert_allclose(dense(value), expected[end], rtol=0, atol=2e-5, err_msg=end)
        if rule.changes_base:
            for layer in LAYERS:
                np.testing.assert_allclose(base_of(state, layer), base[layer], rtol=0, atol=1e-4)
                assert state[f"base/{layer}{A}"].shape[0] <= min(LAYERS[layer]), "the state is bounded"
            assert rule.sent(state).keys() == {f"base/{layer}{ending}" for layer in LAYERS for ending in (A, B)}
