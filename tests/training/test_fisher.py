"""Fisher information of an adapter, example by example: against plain torch, one example at a time."""

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import AutoModelForCausalLM

from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.decoder_layer import use_own_layers
from fedloom.recipe import load_recipe
from fedloom.session import open_data
from fedloom.training.fisher import fisher_diagonal, fisher_traces
from tests.federated_runs import recipe, write_examples

TOLERANCE = 1e-5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A client's real examples: prompts of many lengths, responses shorter than LoRA's rank."""
    folder = tmp_path_factory.mktemp("data")
    data = open_data(load_recipe(recipe(write_examples(folder / "words.jsonl"))), folder)
    return data.examples("hal", "train").subset(range(12))


def trained_adapter(grouped, seed=3):
    """An adapter some way into its training: no factor is zero."""
    generator = torch.Generator().manual_seed(seed)
    fresh = grouped.initial(0)
    return {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


def open_pocket(own_layers=True, **adapter):
    config = load_recipe({"model": {"dtype": "float32", "adapter": {"rank": 4, **adapter}}}).model
    model = load_base(config, CPU)
    grouped = build_adapter(model, config.adapter)
    if own_layers and grouped.fits_own_layers:
        use_own_layers(model, grouped)
    return model, grouped


@pytest.fixture(scope="module")
def lora():
    torch.set_num_threads(1)
    return open_pocket()


def plain_squares(grouped, adapter, examples):
    """Squared gradients of the mean log-probability, one PEFT pass and one backward pass an example: [n, parameters]."""
    config = grouped.config
    base = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float64)
    model = get_peft_model(base, LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets)))
    set_peft_model_state_dict(model.double(), adapter)
    parameters = dict(model.named_parameters())
    named = [parameters[name.replace(".weight", ".default.weight")] for name in grouped.shapes]
    rows = []
    for place in range(len(examples)):
        tokens, trained = torch.from_numpy(examples.tokens(place)), torch.from_numpy(examples.trained(place))
        logits = model(input_ids=tokens[None]).logits[0, :-1][trained[1:]]
        gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, tokens[1:][trained[1:]]), named)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double() ** 2)
    return torch.stack(rows)


def test_traces_and_diagonal_equal_plain_torch_one_example_at_a_time(lora, examples):
    model, grouped = lora
    adapter = trained_adapter(grouped)
    squares = plain_squares(grouped, adapter, examples)
    traces = fisher_traces(model, grouped, adapter, examples, range(len(examples)))
    assert traces == pytest.approx(squares.sum(1).numpy(), rel=TOLERANCE)
    diagonal = fisher_diagonal(model, grouped, adapter, examples, range(len(examples)))
    expected = squares.mean(0)
    assert float((diagonal - expected).norm() / expected.norm()) < TOLERANCE
