"""The judge's client against a real HTTP server that misbehaves: patience, limits, and nothing paid twice."""

import json
import multiprocessing
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import UserError
from fedloom.suites.judge import client as judge_client
from fedloom.suites.judge.cache import Reply, ReplyCache
from fedloom.suites.judge.client import FIRST_WAIT, LONGEST_WAIT, backoff, retry_after
from fedloom.suites.judge.config import KEY_VARIABLE, judge_config
from fedloom.suites.judge.grading import Dialogue, ratings
from fedloom.suites.judge.judge import Judge, Judgement
from tests.suites.judge_server import Scripted, judge_server, said_to

GOOD = Scripted(text="Correct and clear. Rating: [[8]]")
SECRET = "sk-secret-0123456789"


def about(number: int) -> Judgement:
    return ratings(Dialogue((f"question {number}?",), (f"answer {number}",)))[0]


def opened(url: str, folder: Path, **options: Any) -> Judge:
    config = judge_config(url, "scripted", **{"timeout": 20.0, **options})
    assert config is not None
    return Judge(config, folder / "judge.jsonl")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds in place of seconds."""
    monkeypatch.setattr(judge_client, "FIRST_WAIT", 0.002)


BAD_FIRST = {
    "server error": Scripted(status=500, body=b'{"error": {"message": "overloaded"}}'),
    "bad gateway in html": Scripted(status=502, body=b"<html>bad gateway</html>"),
    "not json": Scripted(body=b"{"),
    "no choices": Scripted(body=b'{"choices": []}'),
    "a list": Scripted(body=b"[]"),
    "nested too deeply": Scripted(body=b"[" * 100_000),
    "dropped connection": Scripted(drop=True),
    "cut off": Scripted(body=b'{"choices": [', headers={"Content-Length": "5000", "Connection": "close"}),
    "no rating in the text": Scripted(text="I would rather not say."),
    "a rating out of range": Scripted(text="Rating: [[11]]"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("bad", BAD_FIRST.values(), ids=BAD_FIRST)
def test_what_fails_twice_succeeds_at_the_third_try(bad: Scripted, tmp_path: Path) -> None:
    with judge_server(lambda request, before: bad if before < 2 else GOOD) as server:
        judge = opened(server.url, tmp_path)
        assert judge.verdicts([about(1)])[0].value == 8.0
        judge.close()
    assert len(server.requests) == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "slow", [Scripted(text="[[3]]", hang=4.0), Scripted(text="[[3]]", trickle=0.05)], ids=["silent", "trickling"]
)
def test_a_request_without_a_whole_reply_in_time_is_given_up(slow: Scripted, tmp_path: Path) -> None:
    with judge_server(lambda request, before: slow if before == 0 else GOOD) as server:
        judge = opened(server.url, tmp_path, timeout=1.0)
        # Whatever is too late says 3.
        assert judge.verdicts([about(1)])[0].value == 8.0
        judge.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("text", ["no verdict", "", "[[0]] of [[99]]"])
def test_a_judge_that_never_gives_a_verdict_is_asked_three_times_and_never_scored(text: str, tmp_path: Path) -> None:
    with judge_server(lambda request, before: Scripted(text=text)) as server:
        for _ in range(2):
            judge = opened(server.url, tmp_path)
            verdict = judge.verdicts([about(1)])[0]
            assert verdict.value is None
            assert verdict.text == text
            assert judge.settle().replies == 3
            judge.close()
    # The second time they came from the file.
    assert len(server.requests) == 3


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_heeded_by_all_requests(date: bool, tmp_path: Path) -> None:
    limited: list[float] = []
    came: list[float] = []

    def script(request: dict[str, Any], before: int) -> Scripted:
        came.append(time.monotonic())
        if limited:
            return GOOD
        limited.append(time.monotonic())
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        return Scripted(status=429, headers={"Retry-After": later if date else "1"})

    with judge_server(script) as server:
        judge = opened(server.url, tmp_path, concurrency=1)
        assert [verdict.value for verdict in judge.verdicts([about(1), about(2)])] == [8.0, 8.0]
        judge.close()
    # A date is of whole seconds.
    assert all(when - limited[0] >= 0.95 for when in came[1:])
    assert len(came) == 3


def test_a_server_that_asks_to_come_back_tomorrow_ends_the_evaluation(tmp_path: Path) -> None:
    with judge_server(lambda request, before: Scripted(status=429, headers={"Retry-After": "86400"})) as server:
        judge = opened(server.url, tmp_path)
        with pytest.raises(UserError, match=r"out of order: HTTP 429.*wait 86400 s"):
            judge.verdicts([about(1)])
        judge.close()
    assert len(server.requests) == 1


@pytest.mark.usefixtures("impatient")
def test_an_endpoint_out_of_order_ends_the_evaluation_and_keeps_what_was_said(tmp_path: Path) -> None:
    working = True

    def script(request: dict[str, Any], before: int) -> Scripted:
        return GOOD if working else Scripted(status=503)

    with judge_server(script) as server:
        judge = opened(server.url, tmp_path, concurrency=1, attempts=2)
        judge.verdicts([about(1)])
        working = False
        with pytest.raises(UserError, match="is out of order: HTTP 503"):
            judge.verdicts([about(number) for number in range(100)])
        # Three requests in a row, two tries each, and no more than that.
        assert len(server.requests) == 1 + 6
        judge.close()
        working = True
        judge = opened(server.url, tmp_path)
        assert {verdict.value for verdict in judge.verdicts([about(number) for number in range(4)])} == {8.0}
        judge.close()
    assert server.answered[said_to(server.requests[0])] == 1


@pytest.mark.usefixtures("impatient")
def test_a_single_question_that_is_refused_is_unjudged(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Scripted:
        filtered = "question 2?" in said_to(request)
        return Scripted(status=400, body=b'{"error": {"message": "content filter"}}') if filtered else GOOD

    with judge_server(script) as server:
        judge = opened(server.url, tmp_path, concurrency=1)
        verdicts = judge.verdicts([about(number) for number in range(5)])
        judge.close()
    assert [verdict.value for verdict in verdicts] == [8.0, 8.0, None, 8.0, 8.0]
    assert verdicts[2].text == "HTTP 400: content filter"
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "check the API key"), (403, "rights"), (404, "the model's name"), (400, "every request")],
)
def test_mistakes_of_the_command_are_told_once_and_without_the_key(
    status: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    body = json.dumps({"error": {"message": f"not with {SECRET}"}}).encode()
    with judge_server(lambda request, before: Scripted(status=status, body=body)) as server:
        judge = opened(server.url, tmp_path, concurrency=1)
        with pytest.raises(UserError, match=f"HTTP {status}: not with \\*\\*\\*") as error:
            judge.verdicts([about(number) for number in range(20)])
        judge.close()
    assert told in str(error.value)
    assert SECRET not in str(error.value)
    assert len(server.requests) == (3 if status == 400 else 1)


def test_what_is_sent_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with judge_server(lambda request, before: GOOD) as server:
        judge = opened(
            server.url,
            tmp_path,
            key_variable="JUDGE_KEY",
            settings=["max_tokens=null", "max_completion_tokens=300", "temperature=0.2"],
            prompt_price=10.0,
            completion_price=30.0,
        )
        judge.verdicts([about(1), about(2), about(1)])
        spent = judge.settle()
        judge.close()
    assert len(server.requests) == 2
    request = server.requests[0]
    assert set(request) == {"path", "model", "messages", "temperature", "max_completion_tokens"}
    assert (request["path"], request["model"], request["temperature"]) == ("/v1/chat/completions", "scripted", 0.2)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert (spent.replies, spent.prompt_tokens, spent.completion_tokens, spent.uncounted) == (2, 200, 20, 0)
    assert spent.cost == pytest.approx((200 * 10 + 20 * 30) / 1e6)
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_redirections_are_not_followed(tmp_path: Path) -> None:
    with judge_server(lambda request, before: GOOD) as elsewhere:
        moved = Scripted(status=307, headers={"Location": f"{elsewhere.url}/chat/completions"})
        with judge_server(lambda request, before: moved) as server:
            judge = opened(server.url, tmp_path)
            assert judge.verdicts([about(1)])[0].value is None
            judge.close()
    assert elsewhere.requests == []


def test_no_more_requests_at_a_time_than_asked_for(tmp_path: Path) -> None:
    as_many = threading.Event()

    def script(request: dict[str, Any], before: int) -> Scripted:
        if server.under_way >= 3:
            as_many.set()
        as_many.wait(30)
        return Scripted(text="[[8]]", hang=0.05)

    with judge_server(script) as server:
        judge = opened(server.url, tmp_path, concurrency=3, timeout=60.0)
        judge.verdicts([about(number) for number in range(12)])
        judge.close()
    assert server.most_under_way == 3


def _judge_all(url: str, folder: Path) -> None:
    judge = opened(url, folder, concurrency=3)
    judge.verdicts([about(number) for number in range(12)])
    judge.close()


def test_killed_in_the_midst_of_judging_and_resumed_pays_nothing_twice(tmp_path: Path) -> None:
    """The requests under way at the kill get no reply, so are not paid; all others are answered once in all."""

    def script(request: dict[str, Any], before: int) -> Scripted:
        # Ratings follow from the question, so that it shows whose verdict is whose.
        number = int(said_to(request).split("question ")[-1].split("?")[0])
        if number >= 7 and killing:
            reached.append(number)
            return Scripted(hang=30.0, drop=True)
        return Scripted(text=f"Rating: [[{1 + number % 10}]]")

    killing, reached = True, []
    with judge_server(script) as server:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=_judge_all, args=(server.url, tmp_path))
        process.start()
        while len(reached) < 3 and process.is_alive():
            time.sleep(0.005)
        os.kill(process.pid, 9)
        process.join()
        killing = False
        judge = opened(server.url, tmp_path)
        values = [verdict.value for verdict in judge.verdicts([about(number) for number in range(12)])]
        assert judge.paid_now == 5
        assert judge.settle().replies == 12
        judge.close()
    assert values == [1.0 + number % 10 for number in range(12)]
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 12


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 60))
def test_a_line_torn_by_a_kill_is_cut_off_and_the_rest_kept(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cache") / "judge.jsonl"
    cache = ReplyCache(path)
    cache.put("a", Reply("one\u2028line \ud800", "m", 1, 2))
    cache.put("b", Reply("another"))
    cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    cache = ReplyCache(path)
    assert cache.get("a") == Reply("one\u2028line \ud800", "m", 1, 2)
    assert cache.get("b") is None
    cache.put("b", Reply("another"))
    cache.close()
    assert path.read_bytes() == whole


def test_one_process_at_a_time_holds_the_replies(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "judge.jsonl")
    with pytest.raises(UserError, match="another process"):
        ReplyCache(tmp_path / "judge.jsonl")
    cache.close()
    ReplyCache(tmp_path / "judge.jsonl").close()


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    path.write_text('{"key": "a", "text": "b"}\n{"other": 1}\n')
    with pytest.raises(UserError, match=r"judge\.jsonl:2: is not a judge's reply"):
        ReplyCache(path)
    assert path.read_text().count("\n") == 2


@settings(max_examples=50, deadline=None)
@given(attempt=st.integers(0, 40), address=st.text(max_size=5))
def test_waits_double_up_to_a_bound_with_jitter_that_is_keyed(attempt: int, address: str) -> None:
    whole = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
    assert whole / 2 <= backoff(attempt, address) <= whole
    assert backoff(attempt, address) == backoff(attempt, address)
    assert backoff(0, "a") != backoff(0, "b")


def test_retry_after_as_rfc_9110_has_it() -> None:
    now = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert retry_after("120", now) == 120.0
    assert retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now) == 60.0
    assert retry_after("Sun, 06 Nov 1994 08:48:37 GMT", now) == 0.0
    assert [retry_after(header, now) for header in (None, "soon", "-5")] == [0.0, 0.0, 0.0]
