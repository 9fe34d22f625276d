"""Sparse changes of weights: which entries, what is multiplied, what is read back."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.errors import UserError
from fedloom.model.adapters.per_group import product, sparse_product
from fedloom.model.adapters.sparse import WEIGHTS, GroupedSparse, dense, drawn_positions, load_sparse
from fedloom.model.base import POCKET, load_base
from fedloom.recipe.adapter_schema import SparseConfig
from fedloom.recipe.model_schema import ModelConfig


@given(size=st.integers(1, 400), share=st.floats(0.001, 1), seed=st.integers(0, 5))
def test_positions_follow_from_the_recipe(size: int, share: float, seed: int) -> None:
    config = SparseConfig(share=share, mask_seed=seed)
    found = drawn_positions("layers.0.q_proj", size, config)
    assert len(found) == max(1, round(share * size))
    assert bool((found.diff() > 0).all())
    assert 0 <= int(found[0]) <= int(found[-1]) < size
    assert torch.equal(found, drawn_positions("layers.0.q_proj", size, config))


def test_every_layer_and_every_seed_has_its_own_positions() -> None:
    draws = [
        drawn_positions(layer, 10_000, SparseConfig(share=0.05, mask_seed=seed))
        for layer in ("layers.0.q_proj", "layers.1.q_proj")
        for seed in (0, 1)
    ]
    # Of two independent draws a twentieth is common.
    for place, one in enumerate(draws):
        for other in draws[place + 1 :]:
            assert 5 < len(set(one.tolist()) & set(other.tolist())) < 60
    # And no part of the weight is left out.
    assert torch.bincount(draws[0] // 1000, minlength=10).min() > 20


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_the_product_is_that_of_the_dense_matrix(
    counts: list[int], shape: tuple[int, int], data: st.DataObject
) -> None:
    """To the bit, and so are the gradients at the positions."""
    entries = sorted(data.draw(st.sets(st.integers(0, shape[0] * shape[1] - 1), min_size=1)))
    positions, generator = torch.tensor(entries), torch.Generator().manual_seed(0)
    starts = (0, *torch.tensor(counts).cumsum(0).tolist())
    rows = torch.randn(starts[-1] + 2, shape[1], generator=generator, requires_grad=True)
    values = torch.randn(len(counts), len(positions), generator=generator, requires_grad=True)
    weights = torch.stack([dense(one, positions, shape) for one in values.detach()]).requires_grad_()
    sparse, reference = sparse_product(rows, values, positions, shape, starts), product(rows, weights, starts)
    assert torch.equal(sparse, reference)
    towards = torch.randn(sparse.shape, generator=generator)
    found = torch.autograd.grad(sparse, (rows, values), towards)
    expected = torch.autograd.grad(reference, (rows, weights), towards)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1].flatten(1)[:, positions])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, grouped = grouped_with(SparseConfig())
    adapter = {name: torch.full(shape, 0.5) for name, shape in grouped.shapes.items()}
    (tmp_path / "adapter").mkdir()
    grouped.write(tmp_path / "adapter", adapter, model, ModelConfig())
    return tmp_path / "adapter"


def grouped_with(config: SparseConfig) -> tuple[object, GroupedSparse]:
    model = load_base(ModelConfig(dtype="float32"), torch.device("cpu"))
    return model, GroupedSparse(model, config)


def test_other_positions_are_refused(folder: Path) -> None:
    _, grouped = grouped_with(SparseConfig(mask_seed=1))
    with pytest.raises(UserError, match="q_proj are at other positions than the recipe draws"):
        grouped.read(folder)


def spoilt(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    name = next(name for name in tensors if name.endswith(".positions"))
    values = name.replace("positions", "values")
    return (
        tensors
        | {
            "order": {name: tensors[name].flip(0)},
            "negative": {name: tensors[name] - tensors[name][0] - 1},
            "fewer": {values: tensors[values][1:].clone()},
            "format": {name: tensors[name].float()},
            "surplus": {"more": torch.zeros(1)},
        }[part]
    )


@pytest.mark.parametrize("part", ["order", "negative", "fewer", "format", "surplus"])
def test_files_that_are_no_sparse_change_are_refused(folder: Path, part: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(POCKET)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    safetensors.torch.save_file(spoilt(tensors, part), folder / WEIGHTS)
    with pytest.raises(UserError, match=r"positions of|tensor names differ"):
        load_sparse(base, folder)


def test_models_that_they_do_not_fit_are_refused(folder: Path) -> None:
    config = AutoConfig.from_pretrained(POCKET)
    config.num_hidden_layers, config.hidden_size = 6, 80
    with pytest.raises(UserError, match=r"made for a larger model\.layers\.\d\.self_attn\.[qv]_proj than the model's"):
        load_sparse(AutoModelForCausalLM.from_config(config), folder)
    config.num_hidden_layers, config.hidden_size = 2, 160
    with pytest.raises(UserError, match="which this one has not"):
        load_sparse(AutoModelForCausalLM.from_config(config), folder)
