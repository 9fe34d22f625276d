"""How far layers' outputs move under the perturbed embeddings: against plain transformers, and what never shows."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from fedloom.model.base import POCKET
from fedloom.model.example_sets import examples_at
from fedloom.model.layer_probe import probed
from fedloom.model.packing import Example
from fedloom.session import Session
from fedloom.training.layer_scores import (
    layer_outputs,
    output_movements,
    perturbation,
    relative_movement,
    similarity_score,
)
from tests.layers.federations import opened, settings

LAYERS = [1, 3, 4, 5]


@pytest.fixture(scope="module")
def session(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Adapters begin in layer 1: what lies below is part of the way from the embeddings."""
    model = {"adapter": {"rank": 4, "layers": LAYERS}}
    torch.set_num_threads(1)
    return opened(settings(source, {"share": 1}, model=model), tmp_path_factory.mktemp("scores"))[0]


def some(session: Session, count: int) -> list[Example]:
    return examples_at(session.data.examples("hal", "train"), range(count))


def movements(session: Session, examples: list[Example], noise: float = 0.05) -> np.ndarray:
    fresh = session.grouped.initial(0)
    with probed(session.model, session.grouped, LAYERS) as probe:
        return output_movements(session.model, session.grouped, probe, fresh, examples, LAYERS, noise)


def test_what_plain_transformers_computes(session: Session) -> None:
    """One example at a time through the base model alone: a fresh LoRA adapter adds nothing to it."""
    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()
    examples = some(session, 3)
    found = movements(session, examples)
    for row, example in zip(found, examples, strict=True):
        embedded = model.get_input_embeddings()(torch.from_numpy(example.tokens)[None]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded).logits[0, :-1]
        labels = torch.from_numpy(example.tokens[1:])
        mask = torch.from_numpy(example.trained[1:])
        torch.nn.functional.cross_entropy(logits[mask], labels[mask]).backward()
        gradient = embedded.grad
        assert gradient is not None
        moved = embedded + 0.05 * embedded.norm() * gradient / gradient.norm()
        outputs = []
        with torch.no_grad():
            for inputs in (embedded, moved):
                states: list[torch.Tensor] = []
                hooks = [
                    model.model.layers[layer].register_forward_hook(
                        lambda _, __, out, states=states: states.append(out)
                    )
                    for layer in LAYERS
                ]
                model(inputs_embeds=inputs)
                outputs.append(states)
                for hook in hooks:
                    hook.remove()
        expected = [float((b - a).norm() / a.norm()) for a, b in zip(*outputs, strict=True)]
        np.testing.assert_allclose(row, expected, rtol=1e-4)


def test_an_examples_scores_do_not_depend_on_the_others(session: Session) -> None:
    examples = some(session, 8)
    together = movements(session, examples)
    for place in (0, 3, 7):
        assert np.array_equal(movements(session, [examples[place]])[0], together[place])
    assert np.array_equal(movements(session, examples[::-1])[::-1], together)


def test_without_noise_nothing_moves(session: Session) -> None:
    assert not movements(session, some(session, 2), noise=0.0).any()


def test_the_model_is_left_as_it_was(session: Session) -> None:
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    prefix = session.grouped.frozen_prefix
    movements(session, some(session, 2))
    assert all(torch.equal(value, before[name]) for name, value in session.model.state_dict().items())
    assert session.grouped.frozen_prefix is prefix
    assert prefix is not None
    assert not any(module._forward_hooks for module in session.model.modules())


@given(st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_a_layers_scale_does_not_matter(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, moved = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    assert relative_movement(scale * clean, scale * moved) == pytest.approx(relative_movement(clean, moved), rel=1e-9)


def test_similarity_scores_are_those_of_the_published_formula() -> None:
    # Two outputs with a cosine of c: eigenvalues 1 + c and 1 - c.
    pair = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])]
    expected = sum(math.log(value) + 1 / value for value in (1.6 + 1e-5, 0.4 + 1e-5))
    assert similarity_score(pair) == pytest.approx(expected, rel=1e-6)
    # Where there is nothing after the shorter one's end, the rest of the longer one is unlike it.
    longer = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.0], [0.0, 0.8]])]
    assert similarity_score(longer) == pytest.approx(expected, rel=1e-6)
    # Equal outputs have one eigenvalue of zero; more alike is higher.
    assert similarity_score([pair[0], pair[0]]) > 9e4 > similarity_score(pair) > similarity_score([pair[0]])


@given(st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_a_layers_scale_does_not_matter_to_its_similarities(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = [torch.randn(tokens, 4, generator=generator, dtype=torch.float64) for tokens in (3, 5, 2)]
    assert similarity_score([scale * one for one in outputs]) == pytest.approx(similarity_score(outputs), rel=1e-6)


def test_what_leaves_layers_is_what_the_model_alone_says(session: Session) -> None:
    examples = some(session, 3)
    adapter = session.grouped.initial(0)
    with probed(session.model, session.grouped, LAYERS) as probe:
        together = layer_outputs(session.model, session.grouped, probe, adapter, examples, LAYERS)
        alone = layer_outputs(session.model, session.grouped, probe, adapter, examples[1:2], LAYERS)
    for outputs, single in zip(together, alone, strict=True):
        assert [len(one) for one in outputs] == [len(example.tokens) for example in examples]
        torch.testing.assert_close(outputs[1], single[0])
    assert not torch.equal(together[0][0], together[1][0])


def test_the_perturbation_has_the_size_asked_for() -> None:
    gradient, embedded = torch.randn(4, 8), torch.randn(4, 8)
    change = perturbation(gradient, embedded, 0.05)
    assert float(change.norm()) == pytest.approx(0.05 * float(embedded.norm()), rel=1e-5)
    assert float(torch.cosine_similarity(change.flatten(), gradient.flatten(), 0)) == pytest.approx(1.0, rel=1e-5)
    assert not perturbation(torch.zeros(4, 8), embedded, 0.05).any()
