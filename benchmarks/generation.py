"""Answers to questions of GSM8K, all at once as suites are asked and one at a time by transformers, greedy in fp32.

Two bases: the embedded pocket model, whose answers end by themselves after a few words, and the model of setting.py,
whose random weights never end an answer. The answers of both sides are compared token by token.
"""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedloom.model.base import POCKET, quiet_libraries
from fedloom.suites.generating import generate
from fedloom.suites.items import Limits
from harness import Target, arguments_of, finish, median_timing, shared_folder, skip, take_turns
from setting import alpaca_file, write_model

NAME = "generation"
QUESTIONS = Path("data/eval/gsm8k_test.jsonl.gz")
COUNT = 500
NEW_TOKENS = 128
REPETITIONS = 3
TARGET = 3.0

Answers = list[list[int]]


def main() -> None:
    """Measure both bases."""
    parser = arguments_of(__doc__)
    parser.add_argument(
        "--questions", type=int, default=COUNT, metavar="N", help=f"so many questions (default {COUNT})"
    )
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N", help="timed turns of each side")
    arguments = parser.parse_args()
    file, alpaca = shared_folder() / QUESTIONS, alpaca_file()
    if not file.is_file() or alpaca is None:
        return skip(NAME, arguments, "no GSM8K or Alpaca beside the repository (set FEDLOOM_SHARED)")
    quiet_libraries()
    count, repetitions = (12, 1) if arguments.quick else (arguments.questions, arguments.repetitions)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        questions = [json.loads(line)["question"] for line in itertools.islice(lines, count)]
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), alpaca)
        rows = [
            {"base": base, "questions": len(questions), **measure(folder, questions, repetitions)}
            for base, folder in (("pocket", POCKET), ("setting.py", Path(name)))
        ]
    table = Table(
        "base", "new tokens", "one at a time s (CPU)", "all at once s (CPU)", "speedup (CPU)", "same answers",
        title=f"{len(questions)} questions, at most {NEW_TOKENS} new tokens, medians of {repetitions}",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["base"],
            str(row["tokens"]),
            f"{row['alone_wall']:.1f} ({row['alone_cpu']:.1f})",
            f"{row['together_wall']:.1f} ({row['together_cpu']:.1f})",
            f"{row['speedup']:.1f} ({row['speedup_cpu']:.1f})",
            f"{row['same']:.1%}",
        )
    targets = [Target(f"{row['base']}: times as fast as one at a time", row["speedup"], TARGET) for row in rows]
    targets += [Target(f"{row['base']}: share of the same answers", row["same"], 1.0) for row in rows]
    finish(NAME, arguments, [table], targets=targets, settings={"new_tokens": NEW_TOKENS}, rows=rows)
    return None


def measure(folder: Path, questions: list[str], repetitions: int) -> dict[str, Any]:
    """Both sides take turns on the same questions."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [f"Question: {question}\nAnswer:" for question in questions]
    prompts = [np.array(ids, dtype=np.int64)[-(512 - NEW_TOKENS) :] for ids in tokenizer(texts)["input_ids"]]
    found: dict[str, Answers] = {}
    sides = {"alone": one_at_a_time(model, prompts, tokenizer), "together": all_at_once(model, prompts, tokenizer)}

    def side(name: str) -> Callable[[], None]:
        def work() -> None:
            found[name] = sides[name]()

        return work

    # A few answers first, for what libraries set up.
    one_at_a_time(model, prompts[:2], tokenizer)()
    all_at_once(model, prompts[:2], tokenizer)()
    timings = take_turns({name: side(name) for name in sides}, repetitions, warm_up=0)
    medians = {name: median_timing(times) for name, times in timings.items()}
    pairs = list(zip(found["alone"], found["together"], strict=True))
    return {
        "tokens": sum(map(len, found["alone"])),
        **{f"{name}_{what}": getattr(middle, what) for name, middle in medians.items() for what in ("wall", "cpu")},
        "speedup": medians["alone"].wall / medians["together"].wall,
        "speedup_cpu": medians["alone"].cpu / medians["together"].cpu,
        "same": sum(one == other for one, other in pairs) / len(pairs),
    }


def all_at_once(model: Any, prompts: list[NDArray[np.int64]], tokenizer: Any) -> Callable[[], Answers]:
    """What suites do."""
    limits = Limits(NEW_TOKENS)
    return lambda: [one.tokens for one in generate(model, prompts, limits, tokenizer, [tokenizer.eos_token_id])]


def one_at_a_time(model: Any, prompts: list[NDArray[np.int64]], tokenizer: Any) -> Callable[[], Answers]:
    """What transformers does with one prompt, for each."""

    def answer(prompt: NDArray[np.int64]) -> list[int]:
        given = torch.from_numpy(prompt)[None]
        output = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        tokens: list[int] = output[0, len(prompt) :].tolist()
        return tokens[:-1] if tokens[-1] == tokenizer.eos_token_id else tokens

    return lambda: [answer(prompt) for prompt in prompts]


if __name__ == "__main__":
    main()
