"""A judge for tests: a real HTTP server with scripted behaviour, which records what it is sent and what it answers."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Scripted:
    """What the server does with a request.

    Args:
        text: what the judge says; None: `body` is sent as it is.
        status: of HTTP.
        headers: beside those every reply has.
        body: in place of a chat completion.
        hang: seconds to wait first; with no reply after them where `drop` is set.
        drop: close the connection without a reply.
        trickle: seconds between the bytes of the body.
    """

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hang: float = 0.0
    drop: bool = False
    trickle: float = 0.0

    def payload(self) -> bytes:
        """The body of the reply."""
        if self.text is None:
            return self.body
        message = {"role": "assistant", "content": self.text}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return json.dumps(
            {"model": "scripted-1", "choices": [{"index": 0, "message": message}], "usage": usage}
        ).encode()


# Given the request's values, and how many times the same was asked before.
Script = Callable[[dict[str, Any], int], Scripted]


class JudgeServer:
    """Listens on a free port of this machine.

    Args:
        script: what it does.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        # How often each user message was answered in full, so would have been paid.
        self.answered: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = said_to(request)
                with server._lock:
                    before = sum(said_to(other) == asked for other in server.requests)
                    server.requests.append({**request, "path": self.path})
                    server.headers.append(dict(self.headers))
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                try:
                    self._answer(server.script(request, before), asked)
                except OSError:  # who has asked is gone
                    self.close_connection = True
                finally:
                    with server._lock:
                        server.under_way -= 1

            def _answer(self, scripted: Scripted, asked: str) -> None:
                time.sleep(scripted.hang)
                if scripted.drop:
                    self.close_connection = True
                    return
                payload = scripted.payload()
                self.send_response(scripted.status)
                for name, value in {"Content-Length": str(len(payload)), **scripted.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if scripted.status == 200:
                    with server._lock:
                        server.answered[asked] += 1
                if scripted.trickle:
                    for byte in payload:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(scripted.trickle)
                else:
                    self.wfile.write(payload)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler


def said_to(request: dict[str, Any]) -> str:
    """The user message of a request: what is judged."""
    return str(request["messages"][-1]["content"])


@contextmanager
def judge_server(script: Script) -> Iterator[JudgeServer]:
    """A server for as long as the block lasts."""
    server = JudgeServer(script)
    try:
        yield server
    finally:
        server.close()
