"""One request to an OpenAI-compatible endpoint, repeated with patience where the network or the server fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from fedloom.errors import UserError
from fedloom.randomness import numpy_generator
from fedloom.suites.judge.cache import Reply
from fedloom.suites.judge.config import JudgeConfig

FIRST_WAIT = 1.0  # seconds before the first repetition; each further one waits twice as long
LONGEST_WAIT = 60.0
# A server that asks for more than this has no more for us today.
LONGEST_RETRY_AFTER = 600.0
# So many requests given up one after another, and the endpoint is taken to be out of order.
GIVEN_UP_IN_A_ROW = 3
# Mistakes of the command, not of one request: key, rights, address or model.
_MISTAKES = {401: "the API key", 403: "the API key's rights", 404: "the address or the model's name"}
_RETRIED = {408, 409, 425, 429, *range(500, 600)}
_SHOWN = 300


class NotAnswered(Exception):
    """A request that got no usable reply; its text says why."""


class _Failure(Exception):
    """One try that failed and may be repeated.

    Args:
        reason: what happened.
        retry_after: seconds the server asks to wait, 0 where it asks for none.
    """

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class JudgeClient:
    """Sends requests; usable from several threads at once.

    Args:
        config: the judge. Its API key is read from the environment here, sent in one header and never written.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._key = config.key()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # Redirections are not followed: nothing goes anywhere but where the user has said.
        self._http = httpx2.Client(headers=headers, timeout=config.timeout, follow_redirects=False)
        self._state = threading.Lock()
        self._stopped = threading.Event()
        self._not_before = 0.0
        self._given_up = 0
        self._answered = False

    def ask(self, messages: Sequence[Mapping[str, str]], address: str) -> Reply:
        """Get one reply.

        Args:
            messages: role and content of each.
            address: of the request; keys the jitter of the waits between tries.

        Returns:
            The reply.

        Raises:
            NotAnswered: where every try has failed, or the server refuses these messages.
            UserError: where the endpoint is out of order, or key, address or model are wrong; nothing more is sent
                after it.
        """
        try:
            return self._ask(messages, address)
        except UserError:
            # At once, before other threads send what would come to the same.
            self.stop()
            raise

    def _ask(self, messages: Sequence[Mapping[str, str]], address: str) -> Reply:
        reason = ""
        for attempt in range(self._config.attempts):
            self._pause(self._not_before - time.monotonic())
            try:
                reply = self._try(messages)
            except _Failure as failure:
                reason = str(failure)
                if failure.retry_after > LONGEST_RETRY_AFTER:
                    raise self._out_of_order(f"{reason}, and asks to wait {failure.retry_after:.0f} s") from None
                self._hold(failure.retry_after)
                if attempt + 1 < self._config.attempts:
                    self._pause(max(backoff(attempt, address), failure.retry_after))
                continue
            with self._state:
                self._given_up, self._answered = 0, True
            return reply
        with self._state:
            self._given_up += 1
            hopeless = self._given_up >= GIVEN_UP_IN_A_ROW
        if hopeless:
            raise self._out_of_order(reason)
        raise NotAnswered(reason)

    def _try(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        request = {"model": self._config.model, "messages": list(messages), **self._config.settings}
        until = time.monotonic() + self._config.timeout
        body = bytearray()
        try:
            with self._http.stream(
                "POST",
                f"{self._config.url}/chat/completions",
                content=json.dumps(request).encode(),
                headers={"Content-Type": "application/json"},
            ) as response:
                # httpx's time-out is one of silence; a server that trickles would hold us for ever.
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > until:
                        raise _Failure(f"no whole reply within {self._config.timeout:g} s")
        except httpx2.TimeoutException:
            raise _Failure(f"no reply within {self._config.timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise _Failure(self._without_key(str(error)) or type(error).__name__) from None
        status = response.status_code
        if status == 200:
            return read_reply(bytes(body))
        said = f"HTTP {status}: {self._without_key(_message(bytes(body)))}"
        if status in _MISTAKES:
            raise UserError(f"--judge: {self._config.url} answers {said}", hint=f"check {_MISTAKES[status]}")
        if status in _RETRIED:
            raise _Failure(said, retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
        # Refused for what it says, e.g. by a filter of content; but if nothing ever passes, for how we ask.
        with self._state:
            self._given_up += not self._answered
            hopeless = not self._answered and self._given_up >= GIVEN_UP_IN_A_ROW
        if hopeless:
            raise UserError(f"--judge: {self._config.url} answers every request with {said}")
        raise NotAnswered(said)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise NotAnswered("stopped")

    def _hold(self, seconds: float) -> None:
        # What a server asks of one request holds for all.
        with self._state:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _out_of_order(self, reason: str) -> UserError:
        return UserError(
            f"--judge: {self._config.url} is out of order: {reason}",
            hint="what it has answered is kept; the same command goes on from there",
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def stop(self) -> None:
        """Send nothing any more; requests that wait to be repeated are given up."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self.stop()
        self._http.close()


def backoff(attempt: int, address: str) -> float:
    """Seconds to wait after a failed try: doubling, with jitter, so that clients do not come back all at once.

    Args:
        attempt: how many tries came before this one.
        address: of the request; keys the draw.

    Returns:
        Between half of FIRST_WAIT * 2^attempt and the whole, at most LONGEST_WAIT.
    """
    whole = min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)
    return whole * (1.0 - 0.5 * float(numpy_generator(0, "judge backoff", attempt, address).random()))


def retry_after(header: str | None, now: datetime) -> float:
    """Read the header Retry-After (RFC 9110, section 10.2.3).

    Args:
        header: seconds or a date; None where there is none.
        now: the time, with its zone.

    Returns:
        Seconds to wait, 0 where the header is missing, past or unreadable.
    """
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp())


def read_reply(body: bytes) -> Reply:
    """Read the body of a chat completion.

    Args:
        body: as received.

    Returns:
        The reply.

    Raises:
        _Failure: where it is not JSON, or holds no text of a message; worth another try.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise _Failure(f"a reply that is not JSON: {_short(body)}") from None
    try:
        text = values["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise _Failure(f"a reply without choices: {_short(body)}") from None
    if text is not None and not isinstance(text, str):
        raise _Failure(f"a reply whose message is no text: {_short(body)}")
    usage, model = values.get("usage"), values.get("model")
    usage = usage if isinstance(usage, dict) else {}
    # A judge that has thought until its tokens ran out says nothing, and is paid all the same.
    return Reply(
        text or "",
        model if isinstance(model, str) else None,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _message(body: bytes) -> str:
    # {"error": {"message": ...}} and {"detail": ...} are the two forms in use.
    try:
        values = json.loads(body)
        error = values.get("error", values.get("detail"))
        found = error.get("message") if isinstance(error, dict) else error
        return str(found)[:_SHOWN] if found else _short(body)
    except (ValueError, AttributeError, RecursionError):
        return _short(body)


def _short(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace")
