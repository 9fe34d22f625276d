"""Likelihoods depend neither on company nor on what is shared, and too long contexts lose their beginning."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fedloom.errors import UserError
from fedloom.model.base import POCKET
from fedloom.run_directory import open_finished
from fedloom.suites.likelihood import encode_pairs
from fedloom.suites.subject import Subject, adapter_subject, base_subject, open_bench
from tests.suites.pocket_runs import pocket_run

OPENING = "The following are multiple choice questions (with answers) about the weather and about what people do then."
PAIRS = [
    (f"{OPENING}\nQuestion: {question}\nAnswer:", f" {choice}")
    for question in ("What falls from clouds?", "What does a cold wind bring to the whole valley?")
    for choice in ("rain", "an old summer garden", "stones of the river")
]
FAMILIES = [0, 0, 0, 1, 1, 1]


@pytest.fixture(scope="module", params=["lora", "prefix_tuning"])
def subjects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Subject]:
    kind = {"kind": "prefix_tuning", "virtual_tokens": 3} if request.param == "prefix_tuning" else {"rank": 4}
    model = {"base": "pocket", "dtype": "float32", "adapter": kind}
    finished = pocket_run(tmp_path_factory.mktemp(request.param), model=model)
    bench = open_bench(open_finished(finished)[1])
    return adapter_subject(bench, finished), base_subject(bench)


def test_what_is_shared_changes_nothing(subjects: tuple[Subject, Subject]) -> None:
    for subject in subjects:
        shared = subject.log_likelihoods(PAIRS, FAMILIES)
        alone = subject.log_likelihoods(PAIRS)
        assert [one.log_probability for one in shared] == pytest.approx(
            [one.log_probability for one in alone], rel=1e-6
        )
        assert [(one.tokens, one.is_greedy) for one in shared] == [(one.tokens, one.is_greedy) for one in alone]


def test_company_changes_no_bit(subjects: tuple[Subject, Subject]) -> None:
    for subject in subjects:
        together = subject.log_likelihoods(PAIRS, FAMILIES)
        # The two questions share their opening, which is not computed once: it would depend on who is there.
        assert subject.log_likelihoods(PAIRS[3:], FAMILIES[3:]) == together[3:]
        crowd = PAIRS * 5
        assert subject.log_likelihoods(crowd, np.repeat(np.arange(10), 3).tolist()) == together * 5


def test_the_base_is_the_model_of_transformers(subjects: tuple[Subject, Subject]) -> None:
    adapter, base = subjects
    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()
    found = base.log_likelihoods(PAIRS, FAMILIES)
    for pair, one in zip(encode_pairs(base.bench.tokenizer, PAIRS), found, strict=True):
        tokens = torch.from_numpy(np.concatenate([pair.context, pair.continuation]))[None]
        with torch.no_grad():
            logs = model(tokens).logits[0, len(pair.context) - 1 : -1].log_softmax(-1)
        picked = logs.gather(1, torch.from_numpy(pair.continuation)[:, None])
        assert one.log_probability == pytest.approx(float(picked.sum()), abs=1e-4)
        assert one.is_greedy == bool((logs.argmax(-1) == torch.from_numpy(pair.continuation)).all())
    assert adapter.log_likelihoods(PAIRS, FAMILIES) != found


def test_too_long_contexts_lose_their_beginning(subjects: tuple[Subject, Subject]) -> None:
    base = subjects[1]
    long = (f"{OPENING}\n" * 40 + "Answer:", " rain")
    (pair,) = encode_pairs(base.bench.tokenizer, [long])
    positions = base.bench.model.config.max_position_embeddings - base.bench.grouped.virtual_tokens
    assert len(pair.context) > positions
    (found,) = base.log_likelihoods([long])
    assert found.truncated
    (fits,) = base.log_likelihoods([PAIRS[0]])
    assert not fits.truncated
    # The same tokens as those that are left, given to transformers.
    tokens = torch.from_numpy(np.concatenate([pair.context, pair.continuation])[-positions - 1 :])[None]
    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()
    with torch.no_grad():
        logs = model(tokens[:, :-1]).logits[0].log_softmax(-1)[-len(pair.continuation) :]
    picked = logs.gather(1, torch.from_numpy(pair.continuation)[:, None])
    assert found.log_probability == pytest.approx(float(picked.sum()), abs=1e-4)


def test_a_continuation_without_tokens_is_told() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    with pytest.raises(UserError, match="leaves no token of the continuation ''"):
        encode_pairs(tokenizer, [("a", "")])
