"""A small HTTP server that speaks OpenAI's chat protocol on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Server:
    """What came in; `url` is what a client is told."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def endpoint(says: Callable[[dict[str, Any]], str | int]) -> Iterator[Server]:
    """`says`: a request's body -> the answer's text, or the status of a refusal."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            given = says(body) if self.path == "/v1/chat/completions" else 404
            status = given if isinstance(given, int) else 200
            message = {"role": "assistant", "content": given}
            told = {"error": {"message": f"no: {self.headers.get('Authorization')}"}}
            reply = {"model": f"{body['model']}-0613", "choices": [{"message": message}]} if status == 200 else told
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
