"""Train the tokenizer of the pocket model and pretrain the model from scratch, on one processor core.

    OMP_NUM_THREADS=1 python tools/pretrain_pocket.py --out src/fedloom/model/pocket

Writes config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from fedloom.data.pocket_tasks import FAMILIES, wordings
from pocket_instructions import INSTRUCTIONS, instruction
from pocket_text import STATEMENTS, category, generated, opposite, past, real, sentiment, topic, triage

SPECIALS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, MLP, CONTEXT = 2048, 160, 6, 5, 5, 416, 512
ROPE_BASE, NORM_EPS = 10_000.0, 1e-5
BATCH, WINDOW = 32, 128
REAL_SHARE = 0.1
SNAPSHOT_STEPS = 1_000  # an interrupted run leaves the newest snapshot
REAL_VALIDATION = 150  # exchanges kept out of training to measure the loss on real text
# The answer begins with a space, so that its tokens are those of running text.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %} {{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|user|> {{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(real_texts: list[str], seed: int) -> Tokenizer:
    """Train the byte-level BPE tokenizer: digits stay single, so that numbers are spelled alike everywhere.

    Args:
        real_texts: real exchanges, of which a sample is used.
        seed: keys the generated sample.

    Returns:
        The tokenizer.
    """
    rng = random.Random(f"pocket-tokenizer/{seed}")
    texts = [generated(rng) for _ in range(60_000)] + rng.sample(real_texts, 300)
    # Kinds with many rare words, so that most words of the tasks become one token.
    texts += [
        f" {writer(rng)}" for writer in (category, opposite, past, sentiment, topic, triage) for _ in range(6_000)
    ]
    # Training wordings only: the tokenizer sees no wording of validation or test.
    for family in FAMILIES:
        texts += [re.sub(r"\{\w+\}", "", f" {wording}") for wording in wordings(family, "train")] * 40
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def windows(tokenizer: Tokenizer, real_texts: list[str], seed: int) -> Iterator[Tensor]:
    """Stream batches of token windows: documents end to end, generated and real in a fixed proportion.

    Args:
        tokenizer: the trained tokenizer.
        real_texts: real exchanges to take in turn.
        seed: keys generation and order.

    Yields:
        [BATCH, WINDOW + 1] tokens; the last one of each window is a target only.
    """
    rng = random.Random(f"pocket-text/{seed}")
    pending: list[int] = []
    queue: list[str] = []
    total = from_real = 0
    chunk = 64 * BATCH * (WINDOW + 1)
    while True:
        while len(pending) < chunk:
            if from_real < REAL_SHARE * total:
                queue = queue or rng.sample(real_texts, len(real_texts))
                ids = tokenizer.encode(queue.pop()).ids
                from_real += len(ids)
            else:
                documents = [generated(rng) for _ in range(64)]
                ids = [token for code in tokenizer.encode_batch_fast(documents) for token in code.ids]
            total += len(ids)
            pending += ids
        rows = torch.tensor(pending[:chunk]).view(-1, WINDOW + 1)
        pending = pending[chunk:]
        order = torch.from_numpy(np.array(rng.sample(range(len(rows)), len(rows))))
        yield from rows[order].split(BATCH)


class Llama(nn.Module):
    """The Llama architecture; matrices of all layers are stacked, so one optimiser step serves them all."""

    def __init__(self) -> None:
        super().__init__()
        head = WIDTH // HEADS
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, WIDTH) * 0.02)
        self.norm = nn.Parameter(torch.ones(WIDTH))
        self.input_norm = nn.Parameter(torch.ones(LAYERS, WIDTH))
        self.post_norm = nn.Parameter(torch.ones(LAYERS, WIDTH))
        shapes = {
            "q": (WIDTH, WIDTH), "k": (KV_HEADS * head, WIDTH), "v": (KV_HEADS * head, WIDTH),
            "o": (WIDTH, WIDTH),
            "gate": (MLP, WIDTH), "up": (MLP, WIDTH), "down": (WIDTH, MLP),
        }  # fmt: skip
        self.matrices = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn(LAYERS, rows, columns) * columns**-0.5 * 0.5)
                for name, (rows, columns) in shapes.items()
            }
        )
        angles = torch.outer(torch.arange(WINDOW), ROPE_BASE ** (-torch.arange(0, head, 2) / head)).repeat(1, 2)
        self.register_buffer("cos", angles.cos().bfloat16())
        self.register_buffer("sin", angles.sin().bfloat16())
        self.register_buffer("mask", torch.full((WINDOW, WINDOW), -math.inf).triu(1).bfloat16())

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean next-token loss of [batch, WINDOW] tokens; matrix products run in bfloat16."""
        batch, length = tokens.shape
        head, group = WIDTH // HEADS, HEADS // KV_HEADS
        weights = {name: matrix.bfloat16() for name, matrix in self.matrices.items()}
        table = self.embedding.bfloat16()

        def normed(x: Tensor, gain: Tensor) -> Tensor:
            x = x.float()
            return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS) * gain).bfloat16()

        def rotated(x: Tensor) -> Tensor:
            one, two = x.chunk(2, dim=-1)
            return x * self.cos + torch.cat((-two, one), dim=-1) * self.sin

        def split(x: Tensor, heads: int) -> Tensor:
            return x.view(batch, length, heads, head).transpose(1, 2)

        x = F.embedding(tokens, table)
        for layer in range(LAYERS):
            h = normed(x, self.input_norm[layer])
            q = rotated(split(F.linear(h, weights["q"][layer]), HEADS)).reshape(-1, length, head)
            k = rotated(split(F.linear(h, weights["k"][layer]), KV_HEADS))
            v = split(F.linear(h, weights["v"][layer]), KV_HEADS)
            k, v = (part.repeat_interleave(group, dim=1).reshape(-1, length, head) for part in (k, v))
            scores = torch.bmm(q, k.transpose(1, 2)) * head**-0.5 + self.mask
            mixed = torch.bmm(scores.float().softmax(-1).bfloat16(), v).view(batch, HEADS, length, head)
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, WIDTH), weights["o"][layer])
            h = normed(x, self.post_norm[layer])
            gate = F.silu(F.linear(h, weights["gate"][layer])) * F.linear(h, weights["up"][layer])
            x = x + F.linear(gate, weights["down"][layer])
        logits = F.linear(normed(x, self.norm), table)
        return F.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.reshape(-1))


class Muon(torch.optim.Optimizer):
    """Momentum with the update made orthogonal by Newton-Schulz steps (Jordan et al. 2024), stacked."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Apply one update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                velocity.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(velocity, group["momentum"]).bfloat16()
                wide = update.shape[1] <= update.shape[2]
                x = update if wide else update.transpose(1, 2)
                x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
                for _ in range(5):
                    gram = x @ x.transpose(1, 2)
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                x = x if wide else x.transpose(1, 2)
                scale = max(1.0, parameter.shape[1] / parameter.shape[2]) ** 0.5
                parameter.add_(x.float(), alpha=-group["lr"] * scale)


def schedule(done: float) -> float:
    """Return the learning-rate factor after a share of the tokens: warm-up, plateau, linear decay to zero."""
    return min(done / 0.01 + 0.02, 1.0, (1.0 - done) / 0.5)


def export(model: Llama, tokenizer: Tokenizer, out: Path) -> None:
    """Write model and tokenizer as a folder that transformers loads."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    places = {
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, place in places.items():
            tensors[f"{prefix}.{place}.weight"] = model.matrices[name][layer]
        tensors[f"{prefix}.input_layernorm.weight"] = model.input_norm[layer]
        tensors[f"{prefix}.post_attention_layernorm.weight"] = model.post_norm[layer]
    save_file(
        {name: tensor.detach().bfloat16().clone() for name, tensor in tensors.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    pad, end = SPECIALS.index("<|pad|>"), SPECIALS.index("<|end|>")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": WIDTH // HEADS,
        "max_position_embeddings": CONTEXT, "hidden_act": "silu", "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "bos_token_id": None,
        "eos_token_id": end, "pad_token_id": pad, "dtype": "bfloat16",
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>",
        "bos_token": None, "unk_token": None, "additional_special_tokens": ["<|user|>", "<|assistant|>"],
        "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    generation = {"do_sample": False, "eos_token_id": end, "pad_token_id": pad, "max_new_tokens": 32}
    for name, content in (
        ("config.json", config), ("tokenizer_config.json", settings), ("generation_config.json", generation)
    ):  # fmt: skip
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(out / "tokenizer.json"))


def text_loss(model: nn.Module, tokenizer: Tokenizer, texts: list[str]) -> float:
    """Return the mean loss per token of texts laid end to end, in as many whole batches as they fill."""
    ids = [token for text in texts for token in tokenizer.encode(text).ids]
    rows = torch.tensor(ids[: len(ids) // (WINDOW + 1) * (WINDOW + 1)]).view(-1, WINDOW + 1)
    batches = [batch for batch in rows.split(BATCH) if len(batch) == BATCH]
    with torch.no_grad():
        return sum(model(batch[:, :-1], batch[:, 1:]).item() for batch in batches) / len(batches)


def main() -> None:
    """Train the tokenizer, pretrain, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data sets")
    parser.add_argument("--tokens", type=int, default=18_000_000, help="tokens to train on")
    parser.add_argument("--seed", type=int, default=0, help="keys text, order and initial weights")
    parser.add_argument("--lr", type=float, default=0.02, help="Muon's learning rate for the matrices")
    parser.add_argument("--embedding-lr", type=float, default=3e-3, help="AdamW's for embeddings and norms")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    texts = list(real(options.data))
    random.Random(f"pocket-real/{options.seed}").shuffle(texts)
    kept_out, texts = texts[:REAL_VALIDATION], texts[REAL_VALIDATION:]
    tokenizer = train_tokenizer(texts, options.seed)
    model = Llama()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {len(STATEMENTS)} kinds of statements")
    print(f"{len(set(INSTRUCTIONS))} kinds of instructions; {len(texts):,} real exchanges", flush=True)
    matrices = list(model.matrices.values())
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("matrices")]
    optimisers: tuple[tuple[torch.optim.Optimizer, float], ...] = (
        (Muon(matrices, options.lr), options.lr),
        (
            torch.optim.AdamW(others, options.embedding_lr, betas=(0.9, 0.97), weight_decay=0.0),
            options.embedding_lr,
        ),
    )
    compiled = torch.compile(model)
    steps = options.tokens // (BATCH * WINDOW)
    start, recent = time.time(), 0.0
    for step, batch in zip(range(steps), windows(tokenizer, texts, options.seed), strict=False):
        loss = compiled(batch[:, :-1], batch[:, 1:])
        loss.backward()
        for optimiser, lr in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr * schedule(step / steps)
            optimiser.step()
            optimiser.zero_grad()
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            seen = (step + 1) * BATCH * WINDOW
            rate = seen / (time.time() - start)
            print(f"step {step} tokens {seen:,} loss {recent:.4f} ({rate:,.0f} tokens/s)", flush=True)
        if (step + 1) % SNAPSHOT_STEPS == 0:
            export(model, tokenizer, options.out)
    export(model, tokenizer, options.out)
    rng = random.Random(f"pocket-validation/{options.seed}")
    for name, sample in (
        ("generated", [generated(rng) for _ in range(1_000)]),
        ("instructions", [instruction(rng) for _ in range(500)]),
        ("real", kept_out),
    ):
        print(f"loss on {name} text: {text_loss(compiled, tokenizer, sample):.4f}")
    print(f"{(time.time() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
