"""The error of an aggregate against the mean of products, M = sum_k p_k s B_k A_k, for every rule at once.

It is zero where a method is exact, and what the specification's table says where it is not.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.aggregation import algorithm

from .adapters import A, B, R, adapter_of, base_of, dense, sent_at, shares, tensor, update_to

SIDES, RANKS, SIZES = st.integers(1, 6), st.integers(1, 3), st.integers(1, 9)
SETTINGS = st.fixed_dictionaries(
    {
        "outputs": SIDES,
        "inputs": SIDES,
        "clients": st.lists(st.tuples(RANKS, SIZES), min_size=1, max_size=4),
        "scale": st.sampled_from([0.25, 1.0, 2.0]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def no_error(after):
    return np.zeros_like(after.mean_product)


def cross_terms(after):
    """FedIT: what averaging the factors leaves out."""
    mean_a, mean_b = mean(after.p, after.a), mean(after.p, after.b)
    return -after.s * sum(p * (b - mean_b) @ (a - mean_a) for p, a, b in zip(after.p, after.a, after.b, strict=True))


def mean_client_model(after):
    """FedSA: clients keep their B_k under the mean A."""
    mean_a = mean(after.p, after.a)
    return after.s * sum(p * b @ (mean_a - a) for p, a, b in zip(after.p, after.a, after.b, strict=True))


def padded_means(after):
    """HetLoRA with examples as weights: the means of factors with zeros where a client's rank ends."""
    padded_a = [np.pad(a, ((0, after.rank - len(a)), (0, 0))) for a in after.a]
    padded_b = [np.pad(b, ((0, 0), (0, after.rank - b.shape[1]))) for b in after.b]
    return after.s * mean(after.p, padded_b) @ mean(after.p, padded_a) - after.mean_product


def tail_of(matrix, rank):
    return np.sqrt(np.sum(np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2))


def mean(p, matrices):
    return sum(weight * matrix for weight, matrix in zip(p, matrices, strict=True))


# A rule, its options, the factors its clients train, those they send, and its error as a matrix or as a norm.
BOTH = (A, B)
CASES = {
    "fedavg": ("fedavg", {}, BOTH, BOTH, cross_terms),
    "ffa_lora": ("ffa_lora", {}, (B,), (B,), no_error),
    "rolora, B's turn": ("rolora", {}, (B,), (B,), no_error),
    "rolora, A's turn": ("rolora", {"first": "A"}, (A,), (A,), no_error),
    "fedsa_lora": ("fedsa_lora", {}, BOTH, (A,), mean_client_model),
    "flora": ("flora", {"seed": 7}, BOTH, BOTH, no_error),
    "flexlora": ("flexlora", {}, BOTH, BOTH, lambda after: tail_of(after.mean_product, after.rank)),
    "flexlora, sqrt": (
        "flexlora", {"singular_values": "sqrt"}, BOTH, BOTH, lambda after: tail_of(after.mean_product, after.rank)
    ),
    "hetlora": ("hetlora", {"weighting": "examples"}, BOTH, BOTH, padded_means),
    "fedex_lora": ("fedex_lora", {"weighting": "examples"}, BOTH, BOTH, no_error),
    "fedex_lora, truncated": (
        "fedex_lora", {"weighting": "examples", "residual_rank": 1}, BOTH, BOTH,
        lambda after: tail_of(cross_terms(after), 1),
    ),
    "fed_sb": ("fed_sb", {}, (R,), (R,), no_error),
}  # fmt: skip


def play(setting, name, options, trained, sent):
    """One round from random factors."""
    draw, scale = np.random.default_rng(setting["seed"]), setting["scale"]
    rank = max(own for own, _ in setting["clients"])
    x = adapter_of(draw.normal(size=(rank, setting["inputs"])), draw.normal(size=(setting["outputs"], rank)))
    if name == "fed_sb":
        x["w" + R] = tensor(draw.normal(size=(rank, rank)))
    rule = algorithm(name, **options, **({"scale": scale} if name in ("flora", "fedex_lora") else {}))
    updates, ends = [], []
    for k, (own, size) in enumerate(setting["clients"]):
        y = sent_at(x, own if rule.mixed_ranks else rank)
        for factor in trained:
            y["w" + factor] = y["w" + factor] + tensor(draw.normal(size=y["w" + factor].shape))
        whole = update_to(x, y, str(k), size)
        updates.append(replace(whole, delta={"w" + factor: whole.delta["w" + factor] for factor in sent}))
        ends.append({end: dense(value) for end, value in y.items()})
    state = rule.init(x)
    result, state = rule.step(x, state, updates)
    return SimpleNamespace(
        rank=rank,
        s=scale,
        p=shares([size for _, size in setting["clients"]]),
        a=[y["w" + A] for y in ends],
        # What a client multiplies A with: B, or B R.
        b=[y["w" + B] @ y["w" + R] if "w" + R in y else y["w" + B] for y in ends],
        x={end: dense(value) for end, value in result.items()},
        base=base_of(state) if rule.changes_base else 0.0,
    )


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None)
@given(setting=SETTINGS)
def test_error_against_the_mean_of_products(case, setting):
    name, options, trained, sent, expected = CASES[case]
    after = play(setting, name, options, trained, sent)
    after.mean_product = after.s * mean(after.p, [b @ a for a, b in zip(after.a, after.b, strict=True)])
    if name == "fedsa_lora":
        realised = after.s * mean(after.p, [b @ after.x["w" + A] for b in after.b])
    else:
        middle = after.x.get("w" + R, np.eye(after.rank))
        realised = after.s * after.x["w" + B] @ middle @ after.x["w" + A] + after.base
    error, wanted = realised - after.mean_product, expected(after)
    if np.ndim(wanted) == 0:
        error = np.linalg.norm(error)
    # Factors are rounded to fp32, products of theirs are of this size.
    size = after.s * sum(np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(after.a, after.b, strict=True))
    np.testing.assert_allclose(error, wanted, rtol=0, atol=3e-6 * size)
