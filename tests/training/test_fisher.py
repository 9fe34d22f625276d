"""Fisher information of an adapter, example by example: against plain torch, one example at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fedloom.data.shards import ExampleSet
from fedloom.model.adapter_products import equal_groups, squared_products
from fedloom.model.adapters.lora import _GroupedLinear
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.classes import Classes
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.lanes import Lanes
from fedloom.recipe import load_recipe
from fedloom.recipe.model_schema import ModelConfig
from fedloom.session import open_data
from fedloom.training.client import ClientWork, LocalTraining
from fedloom.training.cohort import train_cohort
from fedloom.training.fisher import fisher_traces
from fedloom.training.optimizers import Sgd
from tests.encoders import tiny_bert, tiny_roberta
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
    config = load_recipe({"model": {"dtype": "float32", "adapter": adapter or {"rank": 4}}}).model
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
    """Squared gradients of the mean log-probability, by one PEFT pass for each example: [n, parameters]."""
    config = grouped.config
    base = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float64)
    model = get_peft_model(
        base, LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets))
    )
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


def traces_at(model, grouped, adapter, examples, indices, lanes=None):
    """The traces of some examples, which share passes."""
    return fisher_traces(model, grouped, adapter, [examples.subset(np.asarray(indices))], lanes)[0]


def trained_for_fisher(model, grouped, work, rate=0.0):
    """What a cohort's round comes to, each client given as its adapter, its examples and its batches."""
    training = LocalTraining(Sgd(0.0, 0.0), rate, None, 1)
    clients = [
        ClientWork(str(place), some, [np.array(batch) for batch in batches], adapter, fisher=True)
        for place, (adapter, some, batches) in enumerate(work)
    ]
    return train_cohort(model, grouped, clients, training)


def test_traces_and_diagonal_equal_plain_torch_one_example_at_a_time(lora, examples):
    model, grouped = lora
    adapter, every = trained_adapter(grouped), range(len(examples))
    exact = plain_squares(grouped, adapter, examples)
    # fp64 there, fp32 here: plain PEFT in fp32 is up to 5e-5 away from fp64 on these very examples.
    assert traces_at(model, grouped, adapter, examples, every) == pytest.approx(exact.sum(1).numpy(), rel=1e-4)
    # Of a round the examples of the last step count. With a rate of zero it is measured where the round began.
    (result,) = trained_for_fisher(model, grouped, [(adapter, examples, [[0, 1, 2], [3, 9, 4, 11]])])
    expected = exact[[3, 9, 4, 11]].mean(0)
    assert result.fisher.dtype == torch.float32
    assert float((result.fisher - expected).norm() / expected.norm()) < 1e-4


def test_a_round_that_tells_fisher_information_trains_as_any_other(lora, examples):
    """Its last gradient is put together from those of its examples."""
    model, grouped = lora
    batches = [np.array([0, 1, 2]), np.array([5, 7, 3, 10])]
    work = ClientWork("0", examples, batches, trained_adapter(grouped))
    training = LocalTraining(Sgd(0.0, 0.0), 0.1, None, 1)
    plain = train_cohort(model, grouped, [work], training)[0]
    telling = train_cohort(model, grouped, [replace(work, fisher=True)], training)[0]
    assert plain.fisher is None
    assert telling.loss == pytest.approx(plain.loss, rel=1e-6)
    for name, value in plain.adapter.items():
        moved, other = value - work.adapter[name], telling.adapter[name] - work.adapter[name]
        assert float((moved - other).norm() / moved.norm()) < 1e-5


def test_fisher_information_does_not_depend_on_company_to_the_last_bit(examples, monkeypatch):
    torch.set_num_threads(1)
    model, grouped = open_pocket()
    # Clients of one, two and two steps: in the first step one tells, in the second two do.
    work = [
        (trained_adapter(grouped, 1), examples, [[3, 1]]),
        (trained_adapter(grouped, 2), examples, [[0, 2, 5], [4, 6, 8]]),
        (grouped.initial(0), examples, [[7], [9, 10]]),
    ]
    together = trained_for_fisher(model, grouped, work, 0.1)

    def same(results):
        for one, other in zip(results, together, strict=True):
            assert torch.equal(one.fisher, other.fisher)
            assert one.loss == other.loss
            assert all(torch.equal(one.adapter[name], other.adapter[name]) for name in grouped.shapes)

    same([trained_for_fisher(model, grouped, [client], 0.1)[0] for client in work])
    # Nor on how many gradients fit into memory.
    monkeypatch.setattr("fedloom.training.fisher.ENTRIES", 2 * grouped.size)
    same(trained_for_fisher(model, grouped, work, 0.1))


def test_squares_without_gradients_are_the_squares_of_the_gradients(lora, examples, monkeypatch):
    model, grouped = lora
    adapter, every = trained_adapter(grouped), range(len(examples))
    apart = traces_at(model, grouped, adapter, examples, every)
    monkeypatch.setattr(grouped, "has_squares", False)
    assert apart == pytest.approx(traces_at(model, grouped, adapter, examples, every), rel=TOLERANCE)


@pytest.mark.parametrize("own_layers", [True, False], ids=["own-layers", "transformers-layers"])
def test_an_examples_trace_does_not_depend_on_its_company_to_the_last_bit(examples, own_layers):
    torch.set_num_threads(1)
    model, grouped = open_pocket(own_layers)
    adapter = trained_adapter(grouped)
    together = traces_at(model, grouped, adapter, examples, range(len(examples)))
    order = [7, 2, 9, 0, 11]
    assert traces_at(model, grouped, adapter, examples, order).tolist() == together[order].tolist()
    assert [traces_at(model, grouped, adapter, examples, [i])[0] for i in order] == together[order].tolist()


def test_clients_that_share_passes_have_the_traces_of_each_alone_to_the_last_bit(lora, examples):
    model, grouped = lora
    adapter = trained_adapter(grouped)
    sets = [examples.subset(some) for some in (range(5), [7], range(6, 12))]
    together = fisher_traces(model, grouped, adapter, sets)
    assert [one.tolist() for one in together] == [
        fisher_traces(model, grouped, adapter, [one])[0].tolist() for one in sets
    ]


@pytest.mark.parametrize("kind", ["rslora", "dora", "ia3", "bitfit", "full"])
def test_every_kind_has_traces_that_sum_to_its_diagonal(examples, kind):
    torch.set_num_threads(1)
    model, grouped = open_pocket(kind=kind)
    adapter, some = grouped.initial(0), range(3)
    traces = traces_at(model, grouped, adapter, examples, some)
    assert (traces > 0).all()
    (result,) = trained_for_fisher(model, grouped, [(adapter, examples, [some])])
    assert float(result.fisher.double().sum()) == pytest.approx(traces.mean(), rel=TOLERANCE)


def test_fresh_lora_has_its_information_in_b_alone(lora, examples):
    """With B = 0 the gradient of A is exactly zero."""
    model, grouped = lora
    (result,) = trained_for_fisher(model, grouped, [(grouped.initial(0), examples, [range(4)])])
    views = grouped.split(result.fisher[None])
    assert all(bool((view > 0).any()) == (".lora_B." in name) for name, view in views.items())


def encoder_loop(folder, config, adapter, examples):
    """Traces without the head, by one PEFT pass for each example, in fp64."""
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, dtype=torch.float64)
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", task_type="SEQ_CLS")
    model = get_peft_model(base, settings).double().eval()
    set_peft_model_state_dict(model, adapter)
    trained = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
    traces = []
    for place in range(len(examples)):
        logits = model(input_ids=torch.from_numpy(examples.tokens(place))[None]).logits
        loss = nn.functional.cross_entropy(logits, torch.tensor([examples.label(place)]))
        traces.append(sum(float(part.square().sum()) for part in torch.autograd.grad(loss, trained)))
    return traces


@pytest.mark.parametrize("make", [tiny_bert, tiny_roberta])
def test_an_encoders_traces_equal_plain_torch_one_example_at_a_time(tmp_path, make):
    torch.set_num_threads(1)
    classes = Classes("linear", 3)
    folder = make(tmp_path / "encoder")
    config = ModelConfig(base=str(folder), dtype="float32", adapter={"rank": 4, "targets": "all-linear"})
    model = load_base(config, CPU, classes)
    grouped = build_adapter(model, config.adapter, classes)
    draw = np.random.default_rng(0)
    tokens = [draw.integers(5, 96, length).tolist() for length in (5, 33, 2, 18, 33, 5)]
    nothing = [[False] * len(one) for one in tokens]
    examples = ExampleSet.from_examples(tokens, nothing, labels=[0, 1, 2, 0, 2, 1])
    adapter, every = trained_adapter(grouped), range(len(examples))
    assert grouped.last_at_labels
    fewer = traces_at(model, grouped, adapter, examples, every)
    assert fewer.tolist() == pytest.approx(encoder_loop(folder, config.adapter, adapter, examples), rel=TOLERANCE)
    # The same in lanes, and alone.
    assert traces_at(model, grouped, adapter, examples, every, Lanes(2, CPU)).tolist() == fewer.tolist()
    assert [traces_at(model, grouped, adapter, examples, [i])[0] for i in every] == fewer.tolist()
    # And by gradients, those of the head left out.
    assert grouped.head_names
    grouped.has_squares = False
    assert traces_at(model, grouped, adapter, examples, every).tolist() == pytest.approx(fewer.tolist(), rel=1e-6)


# (W0 + B A) x, four examples of two classes.
FROZEN = [[0.2, -0.1, 0.4], [-0.3, 0.5, 0.1]]
INPUTS = [[1.0, 0, 2], [0.5, 1, -1], [-1, 2, 0.5], [2, -1, 0]]
CLASSES = [0, 0, 1, 1]
DOWN = torch.tensor([[[0.5, -0.25, 1.0]]])


def tiny_losses(a, b, starts, squares):
    """Each example's loss, its layer the one that adapted models are made of."""
    output = _GroupedLinear.apply(torch.tensor(INPUTS), torch.tensor(FROZEN), None, a, b, 1.0, starts, squares)
    return nn.functional.cross_entropy(output, torch.tensor(CLASSES), reduction="none")


def test_reference_traces_by_the_way_back_of_a_lora_layer():
    squares = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    losses = tiny_losses(DOWN, torch.zeros(1, 2, 1), (0, 1, 2, 3, 4), squares)
    traces = torch.autograd.grad(losses.sum(), squares)[0]
    assert traces.tolist() == pytest.approx([0.779625, 0.863325, 0.015328, 2.163296], abs=1e-6)
    assert traces.argsort().tolist() == [2, 0, 1, 3]
    assert traces.view(2, 2).sum(1).tolist() == pytest.approx([1.642951, 2.178623], abs=1e-6)


def test_the_squared_mean_gradient_is_something_else():
    a, b = DOWN.expand(2, -1, -1).clone().requires_grad_(), torch.zeros(2, 2, 1, requires_grad=True)
    to_a, to_b = torch.autograd.grad(tiny_losses(a, b, (0, 2, 4), None).sum() / 2, (a, b))
    assert not to_a.any()
    assert to_b.square().sum((1, 2)).tolist() == pytest.approx([0.000533, 0.453609], abs=1e-6)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 30), st.integers(1, 12), st.booleans(), st.integers(0, 5))
def test_both_ways_to_a_squared_norm_agree_and_a_group_has_its_bits_alone(groups, tokens, rank, fours, wide, seed):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    sizes = (4 * fours, rank) if wide else (rank, 4 * fours)
    left, right = (torch.randn(groups, tokens, size, generator=generator) for size in sizes)
    found = squared_products(left, right)
    expected = (left.double().mT @ right.double()).square().sum((1, 2))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=TOLERANCE)
    alone = [squared_products(left[group, None], right[group, None]).item() for group in range(groups)]
    assert alone == found.tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_equal_groups_are_found_in_order(sizes):
    starts = np.cumsum([0, *sizes]).tolist()
    found = list(equal_groups(starts))
    assert [size for some, size in found for _ in range(some.stop - some.start)] == [size for size in sizes if size]
    assert all(sizes[group] == size for some, size in found for group in range(some.start, some.stop))
