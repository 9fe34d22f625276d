"""Packed classifiers are transformers' own, one example at a time: logits, gradients, and every client for itself."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from fedloom.errors import UserError
from fedloom.model.adapter_folder import export_adapter
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.classes import Classes
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.forward import class_logits, label_losses, pack_groups, score_labels
from fedloom.model.packing import Example
from fedloom.recipe.model_schema import ModelConfig
from tests.encoders import tiny_bert, tiny_minilm, tiny_roberta
from tests.model.test_packed_models import MODELS, SIZES

LENGTHS = (5, 33, 2, 18, 140)
ENCODERS = {"bert": tiny_bert, "minilm": tiny_minilm, "roberta": tiny_roberta}
DECODERS = ("llama", "gpt2", "gemma2", "phi")
LINEAR = Classes("linear", 3)


@pytest.fixture(scope="module", params=[*ENCODERS, *DECODERS])
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / request.param
    if request.param in ENCODERS:
        return ENCODERS[request.param](place)
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **{**SIZES, **MODELS[request.param]})
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    (place / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    return place


def opened(folder, classes, dtype="float32", **adapter):
    config = ModelConfig(base=str(folder), dtype=dtype, adapter={"targets": "all-linear", "rank": 2, **adapter})
    model = load_base(config, torch.device("cpu"), classes)
    grouped = build_adapter(model, config.adapter, classes)
    if grouped.fits_own_layers:
        use_own_layers(model, grouped)
    return model, grouped


def examples(folder, classes, lengths=LENGTHS):
    generator = np.random.default_rng(0)
    pairs = folder.name in {"bert", "minilm"}
    found = []
    for number, length in enumerate(lengths):
        place = None
        if classes.words:
            place = length // 2 if folder.name in ENCODERS else length - 1
        found.append(
            Example(
                generator.integers(5, 96, length),
                np.zeros(length, dtype=bool),
                label=number % classes.count,
                place=place,
                token_types=(np.arange(length) > length // 2).astype(np.uint8) if pairs and not place else None,
            )
        )
    return found


def adapters_of(grouped, count):
    """Adapters whose every entry matters."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            name: value + 0.05 * torch.randn(value.shape, generator=generator)
            for name, value in grouped.initial(0).items()
        }
        for _ in range(count)
    ]


def plain_logits(folder, classes, some, head):
    """As transformers computes them for one example after another, with its own attention."""
    if classes.head == "linear":
        kind, options = AutoModelForSequenceClassification, {"num_labels": classes.count}
    else:
        kind, options = AutoModelForMaskedLM if folder.name in ENCODERS else AutoModelForCausalLM, {}
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options).eval()
    model.load_state_dict({name.removeprefix("base_model.model."): value for name, value in head.items()}, strict=False)
    found = []
    for example in some:
        types = (
            {} if example.token_types is None else {"token_type_ids": torch.tensor(example.token_types)[None].long()}
        )
        logits = model(input_ids=torch.from_numpy(example.tokens)[None], **types).logits[0]
        found.append(logits if example.place is None else logits[example.place, list(classes.words)])
    return torch.stack(found)


@torch.no_grad()
def test_packed_equals_one_by_one(folder):
    model, grouped = opened(folder, LINEAR)
    fresh = grouped.initial(3)
    grouped.load([grouped.untuned(fresh)] * 2, trainable=False)
    some = examples(folder, LINEAR)
    packed = class_logits(model, grouped, pack_groups(grouped, [some[:2], some[2:]]))
    plain = plain_logits(folder, LINEAR, some, {name: fresh[name] for name in grouped.head_names})
    assert plain.abs().max() > 0.01
    assert (packed - plain).abs().max() < 1e-5 * plain.abs().max()


@torch.no_grad()
def test_label_words_are_logits_of_the_language_model(folder):
    classes = Classes("label_words", 3, (17, 60, 41))
    if folder.name in {"minilm", "gemma2"}:
        # The one's weights have no head over words; the other's tokenizer has a mask token that its model can't read.
        reason = "lack" if folder.name == "minilm" else "no model for masked words"
        with pytest.raises(UserError, match=reason):
            opened(folder, classes)
        return
    model, grouped = opened(folder, classes)
    grouped.load([grouped.untuned(grouped.initial(0))] * 2, trainable=False)
    some = examples(folder, classes)
    packed = class_logits(model, grouped, pack_groups(grouped, [some[:2], some[2:]]))
    plain = plain_logits(folder, classes, some, {})
    assert (packed - plain).abs().max() < 1e-5 * plain.abs().max()


def test_gradients_are_those_of_plain_peft(folder, tmp_path):
    model, grouped = opened(folder, LINEAR)
    (adapter,), some = adapters_of(grouped, 1), examples(folder, LINEAR, (5, 33, 2, 18))
    grouped.load([adapter])
    grouped.backward(label_losses(model, grouped, pack_groups(grouped, [some])).mean())
    ours = grouped.unflatten(grouped.gradients[0])
    config = ModelConfig(base=str(folder))
    export_adapter(tmp_path / "adapter", adapter, model, grouped, config)
    base = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=3)
    plain = PeftModel.from_pretrained(base, str(tmp_path / "adapter"), is_trainable=True).eval()
    losses = []
    for example in some:
        types = (
            {} if example.token_types is None else {"token_type_ids": torch.tensor(example.token_types)[None].long()}
        )
        logits = plain(input_ids=torch.from_numpy(example.tokens)[None], **types).logits
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([example.label])))
    torch.stack(losses).mean().backward()
    theirs = {
        name.replace("modules_to_save.default.", "").replace(".default", ""): parameter.grad
        for name, parameter in plain.named_parameters()
        if parameter.requires_grad
    }
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() < 2e-5 * expected.norm(), name


def gradients(model, grouped, adapters, groups):
    grouped.load(adapters)
    losses = label_losses(model, grouped, pack_groups(grouped, groups))
    grouped.backward(losses.sum())
    return losses.detach(), grouped.gradients.clone()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_groups_in_one_pass_are_each_alone_to_the_bit(folder, dtype):
    model, grouped = opened(folder, LINEAR, dtype)
    torch.set_num_threads(1)
    adapters, some = adapters_of(grouped, 3), examples(folder, LINEAR, (5, 33, 2, 18, 140, 9, 21))
    groups = [some[:1], some[1:4], some[4:]]
    losses, together = gradients(model, grouped, adapters, groups)
    first = 0
    for row, group in enumerate(groups):
        own, alone = gradients(model, grouped, [adapters[row]], [group])
        assert torch.equal(losses[first : first + len(group)], own)
        assert torch.equal(together[row], alone[0])
        assert all(part.abs().max() > 0 for part in grouped.split(alone).values())
        first += len(group)


@pytest.mark.parametrize("classes", [LINEAR, Classes("label_words", 2, (17, 60))], ids=lambda classes: classes.head)
def test_a_score_does_not_depend_on_the_pass_to_the_bit(folder, classes):
    if folder.name in {"minilm", "gemma2"} and classes.words:
        pytest.skip("refused, as tested above")
    model, grouped = opened(folder, classes)
    torch.set_num_threads(1)
    adapters, some = adapters_of(grouped, 2), examples(folder, classes, (5, 33, 2, 18, 140, 9, 21) * 4)

    def losses(adapters, groups):
        grouped.load(adapters, trainable=False)
        return score_labels(model, grouped, pack_groups(grouped, groups, share_prompts=False))[0]

    together = losses(adapters, [some[:20], some[20:]])
    alone = [losses([adapters[number >= 20]], [[example]]) for number, example in enumerate(some)]
    assert torch.equal(together, torch.cat(alone))


def test_scores_are_those_of_the_logits(folder):
    model, grouped = opened(folder, LINEAR)
    grouped.load(adapters_of(grouped, 2), trainable=False)
    batch = pack_groups(grouped, [examples(folder, LINEAR)[:2], examples(folder, LINEAR)[2:]], share_prompts=False)
    losses, correct, predicted = score_labels(model, grouped, batch)
    with torch.no_grad():
        logits = class_logits(model, grouped, batch)
    assert torch.equal(predicted, logits.argmax(-1))
    assert torch.equal(correct, predicted == batch.labels)
    torch.testing.assert_close(losses, torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none"))
