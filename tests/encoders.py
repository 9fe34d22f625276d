"""Tiny encoders with tokenizers of their own, as model folders: random weights, nothing fetched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertTokenizer,
    RobertaTokenizer,
)

TEXTS = (
    "it was a great film , and the cast is good fun .",
    "it was a terrible film : dull , slow and far too long .",
    "a good story told badly ; the bad ending is worse than no ending at all .",
    "the best thing about this movie is that it has an end .",
)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
}


def tiny_bert(folder: Path, texts: Sequence[str] = TEXTS, **settings: Any) -> Path:
    """A BERT with pooler and a head for masked words, as pre-trained ones, and a WordPiece tokenizer.

    Args:
        folder: made, and filled.
        texts: what the tokenizer is trained on.
        settings: of the config, beside `SIZES`.

    Returns:
        The folder.
    """
    size = _word_pieces(folder, texts)
    return _save(folder, "bert", AutoModelForPreTraining, {"vocab_size": size, **settings})


def tiny_minilm(folder: Path, texts: Sequence[str] = TEXTS, **settings: Any) -> Path:
    """A BERT with a pooler and no head, as sentence-transformers stores MiniLM; see `tiny_bert`."""
    size = _word_pieces(folder, texts)
    return _save(folder, "bert", AutoModel, {"vocab_size": size, **settings})


def tiny_roberta(folder: Path, texts: Sequence[str] = TEXTS, **settings: Any) -> Path:
    """A RoBERTa with a head for masked words, and a byte-level BPE tokenizer trained on some texts; see `tiny_bert`."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    names |= {"cls_token": "<s>", "sep_token": "</s>"}
    RobertaTokenizer(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    given = {"vocab_size": tokenizer.get_vocab_size(), **ids, **settings}
    return _save(folder, "roberta", AutoModelForMaskedLM, given)


def _word_pieces(folder: Path, texts: Sequence[str]) -> int:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=256, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizer(tokenizer_object=tokenizer).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _save(folder: Path, kind: str, head: Any, settings: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model = head.from_config(AutoConfig.for_model(kind, **{**SIZES, **settings}))
    # Weights and biases as large as those of a trained model, so that every one of them matters to what is compared.
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
