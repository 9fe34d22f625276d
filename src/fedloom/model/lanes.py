"""Lanes: passes over the base model side by side, one core each, instead of one pass at a time on all cores.

The operations of small models are too short to be worth sharing out between threads, but whole cohorts are not: with
two cores, two lanes train 1.7 times as much a second as one, and a busy machine does not stall them at every operation.
A client's result is the same in any lane.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """Runs a function over items, in as many lanes as there are threads.

    Args:
        threads: CPU threads to use in all.
        device: on an accelerator there is a single lane, whose operations already fill the device.
        threads_alone: for work that does not come in several parts; default: `threads`.
        single: one lane with all threads, for models that only one client at a time can train.
    """

    def __init__(
        self, threads: int, device: torch.device, threads_alone: int | None = None, single: bool = False
    ) -> None:
        self.threads = threads
        self.threads_alone = threads_alone or threads
        several = device.type == "cpu" and not single
        self.count = threads if several else 1
        self.count_within = self.threads_alone if several else 1

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], alone: bool = False) -> Iterator[Result]:
        """Yield `function(item)` for every item, in the order of the items.

        Every lane works on one item and one more is waiting, and no further item is asked for, so memory does not grow
        with the number of items.

        Args:
            function: works on the model; must load its adapters itself, as what is loaded belongs to a thread.
            items: what to work on.
            alone: one after another with all threads, for work that does not come in several parts. Not decided by the
                number of items: the last bits of a result may depend on the number of threads.

        Yields:
            The results.
        """
        if self.count == 1 or alone:
            torch.set_num_threads(self.threads_alone if alone else self.threads)
            yield from map(function, items)
            return
        yield from self._side_by_side(self.count, function, items)

    def map_within(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Run a function over the parts of a piece of work that `map` runs alone, side by side, one thread each.

        Args:
            function: as for `map`.
            items: as for `map`.

        Returns:
            The results, in the order of the items.
        """
        if self.count_within == 1:
            return [function(item) for item in items]
        threads = torch.get_num_threads()
        found = list(self._side_by_side(self.count_within, function, items))
        # What a lane has set is partly the whole process's.
        torch.set_num_threads(threads)
        return found

    @staticmethod
    def _side_by_side(count: int, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        running: deque[Future[Result]] = deque()
        # A failing lane, or a caller that stops listening, leaves through here: what was begun is waited for.
        with ThreadPoolExecutor(count, "lane", torch.set_num_threads, (1,)) as pool:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
