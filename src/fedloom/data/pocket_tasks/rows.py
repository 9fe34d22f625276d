"""Who holds which pocket tasks: sixteen skewed institutions, and the test set over all families."""

from __future__ import annotations

import random

from fedloom.data.pocket_tasks.families import FAMILIES, draw, wordings
from fedloom.data.pocket_tasks.lexicon import CLIENTS

ALL_FAMILIES = "all-families"
MAIN_SHARES: tuple[float, ...] = (0.45, 0.27, 0.18)  # the rest is uniform over all families
TRAIN_SIZES = (120, 360)
VALIDATION_ROWS = 40
TEST_ROWS = 60
ALL_FAMILIES_VALIDATION = 20
ALL_FAMILIES_TEST = 40
STYLE_WORDINGS = 2
ATTEMPTS = 200  # small families cannot fill a large client without repeating a task


def main_families(seed: int) -> dict[str, tuple[str, ...]]:
    """Deal three main families to every client, so that each family is the main one about equally often.

    Args:
        seed: changes who gets what.

    Returns:
        For each client its main families, the largest first.
    """
    rng = random.Random(f"pocket-tasks/{seed}/mains")
    held: dict[str, list[str]] = {client: [] for client in CLIENTS}
    for _ in MAIN_SHARES:
        deck: list[str] = []
        for client in rng.sample(CLIENTS, len(CLIENTS)):
            free = [family for family in deck if family not in held[client]]
            if not free:
                deck += rng.sample(sorted(FAMILIES), len(FAMILIES))
                free = [family for family in deck if family not in held[client]]
            held[client].append(free[0])
            deck.remove(free[0])
    return {client: tuple(mains) for client, mains in held.items()}


def mixture(mains: tuple[str, ...]) -> dict[str, float]:
    """Return the share of each family for a client with these main families; the shares add up to one."""
    shares = dict.fromkeys(FAMILIES, (1.0 - sum(MAIN_SHARES)) / len(FAMILIES))
    for family, share in zip(mains, MAIN_SHARES, strict=True):
        shares[family] += share
    return shares


def _rows(
    client: str, split: str, wanted: list[str], choices: dict[str, tuple[str, ...]], rng: random.Random
) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for family in wanted:
        for _ in range(ATTEMPTS):
            task = draw(family, split, rng)
            prompt = rng.choice(choices[family]).format(**task.slots)
            if prompt not in seen:
                break
        seen.add(prompt)
        rows.append({"prompt": prompt, "response": task.answer, "family": family, "client": client, "split": split})
    return rows


def _client_rows(seed: int, client: str, mains: tuple[str, ...]) -> list[dict[str, str]]:
    rng = random.Random(f"pocket-tasks/{seed}/{client}")
    shares = mixture(mains)
    style = {family: tuple(rng.sample(wordings(family, "train"), STYLE_WORDINGS)) for family in FAMILIES}
    sizes = {"train": rng.randint(*TRAIN_SIZES), "validation": VALIDATION_ROWS, "test": TEST_ROWS}
    rows: list[dict[str, str]] = []
    for split, size in sizes.items():
        wanted = rng.choices(list(shares), weights=list(shares.values()), k=size)
        choices = style if split == "train" else {family: wordings(family, split) for family in FAMILIES}
        rows += _rows(client, split, wanted, choices, rng)
    return rows


def pocket_rows(seed: int) -> list[dict[str, str]]:
    """Generate the pocket tasks of all clients, the embedded data of the framework.

    Test wordings and about a fifth of the values never occur in train or validation, whatever the seed.

    Args:
        seed: changes who gets what (mixtures, sizes, house styles, values), never what is held out.

    Returns:
        Rows with the keys prompt, response, family, client and split. The pseudo-client "all-families" has
        only validation and test rows, the same number of every family.
    """
    rows: list[dict[str, str]] = []
    for client, mains in main_families(seed).items():
        rows += _client_rows(seed, client, mains)
    for split, size in (("validation", ALL_FAMILIES_VALIDATION), ("test", ALL_FAMILIES_TEST)):
        rng = random.Random(f"pocket-tasks/{seed}/{ALL_FAMILIES}/{split}")
        wanted = [family for family in FAMILIES for _ in range(size)]
        choices = {family: wordings(family, split) for family in FAMILIES}
        rows += _rows(ALL_FAMILIES, split, wanted, choices, rng)
    return rows
