"""Pocket tasks: small language tasks with checkable answers, dealt unevenly to sixteen institutions."""

from fedloom.data.pocket_tasks.families import FAMILIES, draw, is_held_out, wordings
from fedloom.data.pocket_tasks.rows import ALL_FAMILIES, main_families, mixture, pocket_rows

__all__ = [
    "ALL_FAMILIES",
    "FAMILIES",
    "draw",
    "is_held_out",
    "main_families",
    "mixture",
    "pocket_rows",
    "wordings",
]
