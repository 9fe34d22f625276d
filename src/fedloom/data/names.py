"""Names that stay on disk, so that a million clients cost no memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """A sorted list of names that stays on disk; a name becomes a string when it is asked for.

    Args:
        text: [bytes] uint8, the names in UTF-8, end to end.
        offsets: [names + 1] int64, where each starts.
    """

    def __init__(self, text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._text = text
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        start = place % len(self)
        return self._text[self._offsets[start] : self._offsets[start + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def __repr__(self) -> str:
        return f"Names({', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''})"

    def find(self, name: str) -> int | None:
        """Find the place of a name, or None."""
        place = bisect_left(self, name)
        return place if place < len(self) and self[place] == name else None
