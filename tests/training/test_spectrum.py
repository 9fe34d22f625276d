"""Spectra by stochastic Lanczos quadrature: against dense matrices, and the published rules on them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fedloom.data.shards import ExampleSet
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.grouped_adapter import PREFIX
from fedloom.recipe.model_schema import ModelConfig
from fedloom.training.spectrum import adapter_spectrum, lanczos, lossless_share, lossless_share_of_density


def symmetric(eigenvalues, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ rotation.t()


def spectrum_of(matrix, iterations, probes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lanczos(lambda vector: matrix @ vector, len(matrix), iterations, probes, generator)


def test_as_many_steps_as_entries_find_every_eigenvalue():
    expected = np.array([-3.0, -0.5, 0.01, 0.02, 0.4, 1.0, 2.5, 80.0])
    values, weights = spectrum_of(symmetric(expected), 8)
    assert values == pytest.approx(expected, abs=1e-9)
    assert weights.sum() == pytest.approx(1)


def test_a_matrix_of_few_different_eigenvalues_ends_the_search():
    values, weights = spectrum_of(symmetric([2.0] * 30 + [5.0] * 10), 40, probes=200)
    assert set(values.round(9)) == {2.0, 5.0}
    assert weights[values > 3].sum() == pytest.approx(0.25, abs=0.02)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 9))
def test_moments_are_those_that_the_probe_sees(eigenvalues, iterations, seed):
    """Quadrature is exact for polynomials of degree 2 k - 1: v^T H v, of the trace's expectation, for every k."""
    matrix = symmetric(eigenvalues)
    values, weights = spectrum_of(matrix, iterations, seed=seed)
    signs = torch.randint(0, 2, (len(matrix),), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    assert weights @ values == pytest.approx(float(signs @ matrix @ signs) / len(matrix), abs=1e-9)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert values.min() >= min(eigenvalues) - 1e-9
    assert values.max() <= max(eigenvalues) + 1e-9


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Llama of 2 layers and 96 adapter parameters."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    config = ModelConfig(base=str(folder), dtype="float32", adapter={"rank": 1, "targets": ["q_proj", "v_proj"]})
    model = load_base(config, torch.device("cpu"))
    # Larger weights: what a trained model's loss is like, not the flat one of a fresh model.
    for parameter in model.parameters():
        parameter.mul_(4) if parameter.dim() > 1 else None
    model.save_pretrained(folder)
    grouped = build_adapter(model, config.adapter)
    use_own_layers(model, grouped)
    generator = torch.Generator().manual_seed(1)
    adapter = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in grouped.initial(0).items()
    }
    draw = np.random.default_rng(0)
    lengths = [(3, 2), (5, 4), (2, 1), (8, 3)]
    tokens = [draw.integers(2, 64, sum(both)).tolist() for both in lengths]
    examples = ExampleSet.from_examples(tokens, [[False] * prompt + [True] * answer for prompt, answer in lengths])
    return folder, model, grouped, adapter, examples


def dense_hessian(folder, grouped, adapter, examples):
    """Of the mean loss, by autograd over plain transformers and W + 2 * alpha / rank ... B A, all in fp64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    weights = dict(model.named_parameters())

    def loss(flat):
        views = grouped.split(flat[None])
        changed = dict(weights)
        for layer in grouped.layers:
            a, b = (views[f"{PREFIX}{layer}.lora_{factor}.weight"][0] for factor in "AB")
            changed[f"{layer}.weight"] = weights[f"{layer}.weight"] + grouped.scale * b @ a
        total = 0.0
        for place in range(len(examples)):
            tokens, trained = torch.from_numpy(examples.tokens(place)), torch.from_numpy(examples.trained(place))
            logits = torch.func.functional_call(model, changed, kwargs={"input_ids": tokens[None]}).logits[0]
            total = total + nn.functional.cross_entropy(logits[:-1][trained[1:]], tokens[1:][trained[1:]])
        return total / len(examples)

    return torch.autograd.functional.hessian(loss, grouped.flatten(adapter).double())


def test_the_spectrum_of_an_adapter_is_that_of_its_dense_hessian(tiny):
    folder, model, grouped, adapter, examples = tiny
    dense = dense_hessian(folder, grouped, adapter, examples)
    expected = torch.linalg.eigvalsh(dense).numpy()
    values, weights = adapter_spectrum(model, grouped, adapter, examples, range(len(examples)), 30, 1, seed=0)
    largest = abs(expected).max()
    print(expected, values, largest)
    assert values.max() == pytest.approx(expected.max(), abs=1e-3 * largest)
    assert values.min() == pytest.approx(expected.min(), abs=1e-3 * largest)
    assert weights.sum() == pytest.approx(1)
    again = adapter_spectrum(model, grouped, adapter, examples, range(len(examples)), 30, 1, seed=0)
    assert [part.tolist() for part in again] == [values.tolist(), weights.tolist()]


def test_reference_gap():
    assert lossless_share([0.01, 0.02, 0.05, 0.09, 0.6, 1.2, 5], 0.1) == pytest.approx(3 / 7)
    assert lossless_share([5, 0.6, 0.01, 0.09, 1.2, 0.05, 0.02], 0.1) == pytest.approx(3 / 7)
    assert lossless_share([0.01, 0.02], 0.1) == 1.0


def test_a_density_is_kept_from_where_it_has_settled():
    values, weights = np.array([-1.0, 0.05, 3.0, 9.0]), np.array([0.3, 0.2, 0.3, 0.2])
    # keep(0) is 0.7 (nearly); from 0.1 on it is 0.5 up to 3.
    assert lossless_share_of_density(values, weights) == pytest.approx(0.5, abs=1e-6)


def test_where_half_is_lost_first_the_step_is_halved():
    """0.6 of the weight above 0 lies below the first step: smaller steps find the plateau before it."""
    values, weights = np.array([0.06, 2.0]), np.array([0.6, 0.4])
    # At 0.1 keep is 0.4, below half of 1; at 0.05 it is above half and falls at 0.1 again; at 0.0125 four agree.
    assert lossless_share_of_density(values, weights) == pytest.approx(1.0, abs=0.005)


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(0.01, 1)), min_size=1, max_size=20),
)
def test_a_share_is_a_share(pairs):
    values, weights = np.array(pairs).T
    assert 0 <= lossless_share_of_density(values, weights / weights.sum()) <= 1
    assert 0 < lossless_share(values, 0.1) <= 1
