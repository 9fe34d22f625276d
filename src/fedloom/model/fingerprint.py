"""A cheap hash of the base model's files, so that an adapter never goes on from, or is tested on, other weights."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from fedloom.model.base import loading, resolve_base
from fedloom.recipe.model_schema import ModelConfig

# Of each tensor, so much from its middle: fine-tuning and merging change whole matrices, and hashing all of a large
# model would take as long as reading it.
BLOCK = 64 * 1024
# What a safetensors file begins with: the header's length, 8 bytes little-endian, then the header, JSON.
HEADER_LENGTH = struct.Struct("<Q")


def base_fingerprint(config: ModelConfig) -> str:
    """Hash the base's config.json and, of its weights, names, shapes, formats and 64 KiB of every tensor.

    Args:
        config: the recipe's model section.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        UserError: where the files can't be read.
    """
    base = resolve_base(config.base)
    digest = hashlib.sha256()
    with loading(config, "the files"):
        # Of a hub id, the files that from_pretrained takes.
        found = cached_file(base, "config.json")
        assert found is not None
        folder = Path(found).parent
        digest.update(Path(found).read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"\x1f{path.name}\x1f".encode())
            _hash_weights(digest, path)
    return digest.hexdigest()


def _hash_weights(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        (length,) = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size))
        header = file.read(length)
        digest.update(header)
        first = HEADER_LENGTH.size + length
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        for start, end in sorted(tuple(tensor["data_offsets"]) for tensor in tensors.values()):
            file.seek(first + start + max(0, (end - start - BLOCK) // 2))
            digest.update(file.read(min(BLOCK, end - start)))
