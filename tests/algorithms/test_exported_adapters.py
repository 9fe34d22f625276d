"""What a run exports computes in PEFT what the run itself has tested, whatever its algorithm does to the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import fedloom
from fedloom.inspection import evaluate_run
from fedloom.model.base import POCKET
from fedloom.recipe import load_recipe
from fedloom.session import open_session
from tests.algorithms.every import RUNS

pytestmark = pytest.mark.long

WHOLE_SPLITS = ["evaluation.max_examples=null"]
# The rank that the exported factors have: the recipe's 4, and what the base has got in three rounds: from each of five
# clients but one the same again, or one. FLoRA's is the sum of its clients' ranks.
EXPORTED = {"fedavg": 4, "flexlora": 4, "fed_sb": 4, "fedex_lora": 52, "fedex_lora, truncated": 7, "flora": None}


@pytest.mark.parametrize("name", EXPORTED)
def test_peft_computes_what_the_run_has_tested(name: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    metrics = fedloom.run(RUNS[name](source), out, WHOLE_SPLITS).metrics
    folder = out / "adapter"
    ranks = {
        len(value)
        for tensor, value in safetensors.torch.load_file(folder / "adapter_model.safetensors").items()
        if "lora_A" in tensor
    }
    assert ranks == {EXPORTED[name]} or (name == "flora" and min(ranks) > 4)
    base = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    session = open_session(load_recipe(out / "recipe.yaml"), tmp_path / "again")
    for client, scored in metrics["eval"]["clients"].items():
        examples = session.data.examples(client, "test")
        losses = []
        for place in range(len(examples)):
            tokens, labels = torch.from_numpy(examples.tokens(place)), torch.from_numpy(examples.trained(place))
            with torch.no_grad():
                logits = model(tokens[None]).logits[0, :-1]
            every = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            losses.append(every[labels[1:]])
        assert len(losses) == scored["examples"]
        assert float(torch.cat(losses).mean()) == pytest.approx(scored["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "name", ["fed_sb", "flora", "fedex_lora", "fedsa_lora", "fedavg, private layer", "ditto", "pfedme"]
)
def test_evaluate_gives_the_run_s_own_number(name: str, finished: Callable[[str], Path], left_by: Callable) -> None:
    again, own = evaluate_run(finished(name)), left_by(name)["metrics"]["eval"]
    assert again["loss"] == pytest.approx(own["loss"], rel=1e-6)
    assert again.keys() == own.keys()
    if "personal" in own:
        assert again["personal"]["loss"] == pytest.approx(own["personal"]["loss"], rel=1e-6)
