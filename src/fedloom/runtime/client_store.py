"""What a client keeps from round to round, on its own disk: memory does not grow with the number of clients.

A state is written under the number of its round and never overwritten, so that a killed round leaves the one before
untouched; what a committed checkpoint makes obsolete is removed when the client writes again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import safetensors.torch
from torch import Tensor

LONGEST_NAME = 100


class ClientStore:
    """Named tensors of clients, by arm and round.

    Args:
        directory: the run's `clients/` folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, arm: str, client: str, round_number: int, tensors: dict[str, Tensor]) -> None:
        """Write a client's state after a round.

        Args:
            arm: the arm of the run.
            client: the client's name.
            round_number: the round just trained.
            tensors: its state.
        """
        folder = self._folder(arm, client)
        folder.mkdir(parents=True, exist_ok=True)
        earlier = self._rounds(folder)
        partial = folder / f".{round_number}.partial"
        # Not save_file, which reports a full disk as a damaged file.
        partial.write_bytes(safetensors.torch.save(tensors))
        os.replace(partial, folder / f"{round_number}.safetensors")
        # A resume may need the state before this round, and the one before that where the newest checkpoint is
        # damaged; it can't need any older one.
        for old in [number for number in earlier if number < round_number][:-2]:
            (folder / f"{old}.safetensors").unlink()

    def load(self, arm: str, client: str, before_round: int) -> dict[str, Tensor] | None:
        """Read a client's newest state from before a round.

        Args:
            arm: the arm of the run.
            client: the client's name.
            before_round: the round about to be trained; states of it or later, left by a killed run, do not count.

        Returns:
            The state, or None for a client that has none yet.
        """
        folder = self._folder(arm, client)
        usable = [number for number in self._rounds(folder) if number < before_round]
        if not usable:
            return None
        state: dict[str, Tensor] = safetensors.torch.load_file(folder / f"{usable[-1]}.safetensors")
        return state

    def _folder(self, arm: str, client: str) -> Path:
        name = quote(client, safe="")
        if len(name) > LONGEST_NAME or name.startswith("."):
            name = f"{name[:40].lstrip('.')}-{hashlib.blake2b(client.encode(), digest_size=8).hexdigest()}"
        return self.directory / name / arm

    @staticmethod
    def _rounds(folder: Path) -> list[int]:
        return sorted(int(path.stem) for path in folder.glob("*.safetensors"))
