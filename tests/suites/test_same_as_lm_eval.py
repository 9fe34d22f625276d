"""Fed with the same examples, lm-evaluation-harness finds the same likelihoods and accuracies on its own prompts."""

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from fedloom.data.readers import read_file
from fedloom.model.adapters.registry import adapter_class
from fedloom.model.base import POCKET, load_tokenizer, read_weights
from fedloom.run_directory import open_finished
from fedloom.suites.catalogue import all_tasks
from fedloom.suites.items import Item
from fedloom.suites.kinds.base import Options
from fedloom.suites.kinds.choice import ChoiceKind
from fedloom.suites.likelihood import encode_pairs
from fedloom.suites.readers.instruction_form import number_of, parse_instruction
from fedloom.suites.readers.registry import READERS
from fedloom.suites.subject import Subject, adapter_subject, open_bench
from tests.suites.pocket_runs import pocket_run

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
HARNESS = Path(lm_eval.__file__).parent / "tasks"
EXAMPLES = 12
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_run(tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="module")
def subject(finished: Path) -> Subject:
    _, recipe = open_finished(finished)
    return adapter_subject(open_bench(recipe), finished)


@pytest.fixture(scope="module")
def harness(finished: Path) -> Any:
    _, recipe = open_finished(finished)
    base = read_weights(recipe.model, "cpu")
    model = adapter_class(recipe.model.adapter.kind).opened(base, finished / "adapter").eval()
    models = importlib.import_module("lm_eval.models.huggingface")
    return models.HFLM(pretrained=model, tokenizer=load_tokenizer(recipe.model), batch_size=4)


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    return (record.values for record in read_file(path))


def arc(shared: Path) -> tuple[list[Records], dict[str, Any]]:
    records = []
    for record in records_of(shared / "data/eval/arc_easy.jsonl.gz"):
        if record["split"] == "test" and len(records) < EXAMPLES:
            question, choices = parse_instruction(record["instruction"], "Answer")
            labels = list("ABCDE")[: len(choices)]
            key = labels[number_of(record["answer"])]
            texts = {"text": choices, "label": labels}
            records.append({"id": record["id"], "question": question, "choices": texts, "answerKey": key})
    return [records], {"config": yaml.safe_load((HARNESS / "arc/arc_easy.yaml").read_text())}


def hellaswag(shared: Path) -> tuple[list[Records], dict[str, Any]]:
    records = []
    for record in records_of(shared / "data/eval/hellaswag_val_sample.jsonl.gz"):
        if len(records) < EXAMPLES:
            # The hub's form: two contexts, the second of which the harness capitalises; and some markup.
            *first, last = record["ctx"].split()
            context = {"ctx_a": f"[header] {' '.join(first)} [title]", "ctx_b": last}
            records.append({**{key: record[key] for key in ("activity_label", "endings", "label")}, **context})
    text = (HARNESS / "hellaswag/hellaswag.yaml").read_text().replace("!function utils.process_docs", "null")
    utils = importlib.import_module("lm_eval.tasks.hellaswag.utils")
    return [records], {"config": {**yaml.safe_load(text), "process_docs": utils.process_docs, "test_split": "test"}}


def mmlu(shared: Path) -> tuple[list[Records], dict[str, Any]]:
    def subject_of(name: str) -> Records:
        found = [r for r in records_of(shared / f"data/eval/{name}.jsonl.gz") if r["subject"] == "global_facts"]
        return [{**record, "answer": "ABCD".index(record["answer"])} for record in found]

    tests, shown = subject_of("mmlu_test_sample")[:EXAMPLES], subject_of("mmlu_dev")
    config = yaml.safe_load((HARNESS / "mmlu/default/_default_template_yaml").read_text())
    of_subject = yaml.safe_load((HARNESS / "mmlu/default/mmlu_global_facts.yaml").read_text())
    config |= {"description": of_subject["description"], "fewshot_split": "dev"}
    return [tests, shown], {"config": config, "shots": 5}


@pytest.mark.parametrize(
    ("name", "prepared"),
    [("arc_easy", arc), pytest.param("hellaswag", hellaswag, marks=pytest.mark.slow), ("mmlu", mmlu)],
    ids=["arc_easy", "hellaswag", "mmlu"],
)
def test_likelihoods_and_accuracies(
    name: str, prepared: Callable[..., Any], shared: Path, tmp_path: Path, subject: Subject, harness: Any
) -> None:
    files, settings = prepared(shared)
    task, kind = all_tasks()[name], ChoiceKind(Options())
    items: list[Item] = list(READERS[task.reader](files))
    outcomes = list(kind.outcomes(task, items, subject))

    paths = {}
    for split, records in zip(("test", "dev"), files, strict=False):
        paths[split] = tmp_path / f"{split}.jsonl"
        paths[split].write_text("".join(json.dumps(record) + "\n" for record in records))
    config = {
        **{key: value for key, value in settings["config"].items() if key not in {"tag", "training_split"}},
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "validation_split": None,
        "test_split": "test",
        "dataset_kwargs": {
            "data_files": {split: str(path) for split, path in paths.items()},
            "cache_dir": str(tmp_path / "cache"),
        },
        "num_fewshot": settings.get("shots", 0),
    }
    theirs = lm_eval.simple_evaluate(model=harness, tasks=[config], bootstrap_iters=0)
    samples = sorted(theirs["samples"][config["task"]], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(items) == EXAMPLES
    for outcome, sample in zip(outcomes, samples, strict=True):
        likelihoods = [response[0][0] for response in sample["resps"]]
        assert outcome.output["log_likelihoods"] == pytest.approx(likelihoods, abs=1e-4)
        assert outcome.measures["accuracy"] == sample["acc"]
        assert outcome.measures.get("accuracy_normalised") == sample.get("acc_norm")
    results = theirs["results"][config["task"]]
    assert results["acc,none"] == pytest.approx(sum(o.measures["accuracy"] for o in outcomes) / EXAMPLES)


TEXTS = [
    ("Once upon a time ", "there was"),
    ("Q: a\nA:", " b"),
    ("", "there was"),
    ("a", "  b c"),
    ("né", "é"),
]


@pytest.mark.parametrize("tokenizer", ["pocket", "models/stories260K", "tokenizers/gpt2", "tokenizers/pythia"])
def test_tokens_are_theirs(tokenizer: str, shared: Path, harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = AutoTokenizer.from_pretrained(POCKET if tokenizer == "pocket" else shared / tokenizer)
    asked: list[Any] = []
    monkeypatch.setattr(harness, "tokenizer", own)
    # What it would compute; likelihoods themselves are compared above.
    monkeypatch.setattr(harness, "_loglikelihood_tokens", lambda requests, **_: asked.extend(requests))
    harness.loglikelihood([SimpleNamespace(args=pair) for pair in TEXTS], disable_tqdm=True)
    found = [(pair.context.tolist(), pair.continuation.tolist()) for pair in encode_pairs(own, TEXTS)]
    assert found == [(list(context), list(continuation)) for _, context, continuation in asked]
