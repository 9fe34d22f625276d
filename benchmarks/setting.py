"""The speed benchmarks' setting: a small Llama with random weights, Alpaca's text, a recipe, and its arithmetic."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedloom.data.readers import read_file
from fedloom.model.base import quiet_libraries
from fedloom.model.packing import PackedBatch
from harness import shared_folder

ALPACA = Path("data/instruct/alpaca_20k.jsonl.gz")
STORIES = Path("models/stories260K")
END = "<|end|>"
VOCABULARY = 4096
MAX_TOKENS = 256
RANK = 16


def alpaca_file() -> Path | None:
    """The Alpaca file, or None where there is none."""
    path = shared_folder() / ALPACA
    return path if path.is_file() else None


def first_records(source: Path, file: Path, count: int) -> Path:
    """Write the first records of a compressed JSON Lines file to another, for quick runs.

    Args:
        source: the whole.
        file: where they go.
        count: how many.

    Returns:
        `file`.
    """
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        file.write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
    return file


def write_model(folder: Path, alpaca: Path, layers: int = 6) -> LlamaConfig:
    """Write the 6.8 M model: random weights, and a byte-level BPE trained on the text itself.

    Args:
        folder: where it goes, as safetensors with a tokenizer.
        alpaca: the text, JSON Lines.
        layers: decoder layers.

    Returns:
        Its configuration.
    """
    quiet_libraries()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fields = ("instruction", "input", "output")
    texts = ("\n".join(record.values[field] for field in fields) for record in read_file(alpaca))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return config


def alpaca_recipe(base: Path, source: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """The benchmarks' recipe: 20 clients, 4 a round, LoRA of rank 16 on q_proj and v_proj, FedAvg, AdamW.

    Args:
        base: the model's folder.
        source: Alpaca's records.
        sections: what differs, by section.

    Returns:
        A recipe as a mapping.
    """
    recipe: dict[str, Any] = {
        "name": "speed",
        "model": {
            "base": str(base),
            "dtype": "float32",
            "adapter": {"rank": RANK, "alpha": 2 * RANK, "targets": ["q_proj", "v_proj"]},
        },
        "data": {
            "source": str(source),
            "fields": {"prompt": "instruction", "context": "input", "response": "output"},
            "template": "alpaca",
            "max_tokens": MAX_TOKENS,
            "partition": {"kind": "iid", "clients": 20},
            "split": {"validation": 0.0, "test": 0.0},
            "global_test": {"fraction": 0.02},
        },
        "federation": {"rounds": 20, "clients_per_round": 4},
        "local": {"steps": 10, "batch_size": 8, "learning_rate": 3e-3},
        "runtime": {"device": "cpu"},
    }
    for name, section in sections.items():
        recipe[name] = {**recipe.get(name, {}), **section}
    return recipe


def product_shapes(config: LlamaConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head = config.head_dim or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return [
        (hidden, queries),
        (hidden, keys),
        (hidden, keys),
        (queries, hidden),
        (hidden, inner),
        (hidden, inner),
        (inner, hidden),
    ]


def needed_flops(config: LlamaConfig, lengths: Sequence[int], labels: int, rank: int = RANK) -> float:
    """Floating-point operations that training adapters on q_proj and v_proj can't do without, two a multiply-add.

    Linear layers forward and backward to their inputs, the adapters' products, causal attention without its masked
    half, the output head at labelled positions. The first layer's inputs need no gradient (embeddings are frozen), so
    neither do its keys. Nothing is recomputed.

    Args:
        config: of a Llama.
        lengths: tokens of each sequence.
        labels: labelled positions of all sequences.
        rank: of the adapters.

    Returns:
        Operations of one pass over these sequences, forward and backward.
    """
    shapes = product_shapes(config)
    layers, tokens = config.num_hidden_layers, sum(lengths)
    forward = sum(inputs * outputs for inputs, outputs in shapes)
    first = sum(inputs * outputs for inputs, outputs in shapes[:3])
    linear = 2 * layers * forward - first
    # Forward A and B; backward to the inner activations, to B, to A, and (not in the first layer) to the input.
    adapted = [shapes[0], shapes[2]]
    adapter = sum(layers * rank * (3 * inputs + 3 * outputs) - rank * inputs for inputs, outputs in adapted)
    # Scores and mixing forward; to queries, keys, values and probabilities backward; not to the first layer's keys.
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    attention = pairs * shapes[0][1] * (6 * layers - 1)
    head = 2 * labels * config.hidden_size * config.vocab_size
    return 2.0 * (tokens * (linear + adapter) + attention + head)


def performed_flops(config: LlamaConfig, batch: PackedBatch, rank: int = RANK) -> float:
    """Of `needed_flops`, those that Fedloom carries out for a batch.

    Beginnings that examples of a client share are computed once, and in the last layer what comes after attention is
    computed at labelled positions only.

    Args:
        config: of a Llama.
        batch: packed examples.
        rank: of the adapters.

    Returns:
        Operations of one pass, forward and backward.
    """
    labels, shapes = len(batch.labels), product_shapes(config)
    lengths = [int(inside.sum()) for _, _, mask in batch.layout.members for inside in mask]
    prefixes = [bucket.prefix for bucket in batch.layout.buckets for _ in range(bucket.sequences)]
    after_attention = sum(inputs * outputs for inputs, outputs in shapes[3:])
    seen = sum(length * prefix for length, prefix in zip(lengths, prefixes, strict=True))
    return (
        needed_flops(config, lengths, labels, rank)
        + 2.0 * seen * shapes[0][1] * (6 * config.num_hidden_layers - 1)
        - 4.0 * (sum(lengths) - labels) * after_attention
    )
