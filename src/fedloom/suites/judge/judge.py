"""A judge: prompts, an endpoint, and what it has said so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from fedloom.suites.judge.cache import Reply, ReplyCache, request_key
from fedloom.suites.judge.client import JudgeClient, NotAnswered
from fedloom.suites.judge.config import JudgeConfig
from fedloom.suites.judge.prompts import Role, load_prompts, values_of
from fedloom.suites.judge.verdicts import READERS, Value

# A judge at temperature 0 says much the same again: asked so often for a verdict, it has none.
READINGS = 3
# Is given how many judgements are done, of how many; for a progress bar.
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Judgement:
    """What is to be judged.

    Args:
        role: by which prompt.
        questions: the user's turns up to the judged one.
        answers: one conversation's answers to them, or those of A and of B.
        references: reference answers to the same turns; None where the role has none.
    """

    role: Role
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    references: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """What the judge has said.

    Args:
        value: a rating, a winner or a class; None: unjudged, which counts as nothing.
        text: the judge's words, or why there are none.
    """

    value: Value | None
    text: str


@dataclass(frozen=True)
class Spending:
    """What judgements rest on, whenever it was paid; the same for a run that was killed and resumed.

    Args:
        replies: of the endpoint, those without a verdict included.
        prompt_tokens: that these read, by the endpoint's account.
        completion_tokens: that these wrote.
        uncounted: replies for which the endpoint gave no tokens.
        cost: in the currency of the prices; None where none were given.
    """

    replies: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None


class Judge:
    """Gives verdicts, each paid once: what is in the cache is not asked for again.

    Args:
        config: endpoint, model and prompts.
        cache: file of replies (see `ReplyCache`).
    """

    def __init__(self, config: JudgeConfig, cache: Path) -> None:
        self._config = config
        self._prompts = load_prompts(config.prompts)
        self._cache = ReplyCache(cache)
        self._client = JudgeClient(config)
        self._used: dict[str, Reply] = {}
        self._paid = 0

    @property
    def paid_now(self) -> int:
        """Replies that were asked for since this judge was opened, and not found in the cache."""
        return self._paid

    def verdicts(self, judgements: Sequence[Judgement], told: Told = lambda done, total: None) -> list[Verdict]:
        """Have judged what is not judged yet; several requests are under way at a time.

        Args:
            judgements: what is to be judged; equal ones are asked for once.
            told: is given how many are judged, of how many.

        Returns:
            A verdict for each, in the same order.

        Raises:
            UserError: where the endpoint is out of order or refuses key or model. What it has said is kept.
        """
        pool = ThreadPoolExecutor(self._config.concurrency)
        try:
            futures: dict[Judgement, Future[Verdict]] = {}
            for judgement in judgements:
                if judgement not in futures:
                    futures[judgement] = pool.submit(self._verdict, judgement)
            for done, future in enumerate(as_completed(futures.values()), start=1):
                future.result()
                told(done, len(futures))
            return [futures[judgement].result() for judgement in judgements]
        except BaseException:
            self._client.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _verdict(self, judgement: Judgement) -> Verdict:
        values = values_of(judgement.role, judgement.questions, judgement.answers, judgement.references)
        messages = self._prompts[judgement.role].messages(values)
        reply = Reply("")
        for attempt in range(min(READINGS, self._config.attempts)):
            key = request_key(self._config.model, messages, self._config.settings, attempt)
            found = self._cache.get(key)
            if found is None:
                try:
                    found = self._client.ask(messages, key)
                except NotAnswered as reason:
                    return Verdict(None, str(reason))
                self._cache.put(key, found)
                self._paid += 1
            self._used[key] = reply = found
            value = READERS[judgement.role.kind](reply.text)
            if value is not None:
                return Verdict(value, reply.text)
        return Verdict(None, reply.text)

    def settle(self) -> Spending:
        """Tokens and money of all replies that the verdicts since the last settlement rest on."""
        spent = _spending(self._used.values(), self._config)
        self._used.clear()
        return spent

    def description(self) -> dict[str, Any]:
        """Who has judged, and how it was asked: JSON values for the results, without the API key."""
        return {
            "url": self._config.url,
            "model": self._config.model,
            "settings": self._config.settings,
            "prompts_sha256": self._prompts_hash(),
        }

    def close(self) -> None:
        """Close connections and cache."""
        self._client.close()
        self._cache.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompts_hash(self) -> str:
        texts = [f"{role}\x1f{prompt.system}\x1f{prompt.template}" for role, prompt in sorted(self._prompts.items())]
        return sha256("\x1e".join(texts).encode()).hexdigest()


def _spending(replies: Iterable[Reply], config: JudgeConfig) -> Spending:
    counted = list(replies)
    read = sum(reply.prompt_tokens or 0 for reply in counted)
    written = sum(reply.completion_tokens or 0 for reply in counted)
    uncounted = sum(reply.prompt_tokens is None or reply.completion_tokens is None for reply in counted)
    cost = None
    if config.prompt_price is not None and config.completion_price is not None:
        cost = (read * config.prompt_price + written * config.completion_price) / 1e6
    return Spending(len(counted), read, written, uncounted, cost)
