"""A service that does not listen yet is asked again, not started again."""

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from superlance import httpok, timeoutconn

from pipeline.stack import probe
from tests.support.processes import free_port


class Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_who_does_not_listen_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeoutconn, "TimeoutHTTPConnection", timeoutconn.TimeoutHTTPConnection)
    port, restarted, servers = free_port(), [], []

    def listen(_: float) -> None:
        servers.append(HTTPServer(("127.0.0.1", port), Alive))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()

    def look_once() -> None:
        info = {"name": "api", "group": "services", "pid": 1, "state": 20, "statename": "RUNNING"}
        supervisor = SimpleNamespace(
            getAllProcessInfo=lambda: [info], stopProcess=restarted.append, startProcess=restarted.append
        )
        rpc: Any = SimpleNamespace(supervisor=supervisor)
        url = f"http://127.0.0.1:{port}/livez"
        checker = httpok.HTTPOk(rpc, ["api"], False, url, 21, [200], None, None, None, None, None, False, 10, None)
        checker.stdin = io.StringIO("eventname:TICK_5 len:0\n")
        checker.stdout = checker.stderr = io.StringIO()
        checker.runforever(test=True)

    monkeypatch.setattr(httpok, "main", look_once)
    monkeypatch.setattr(httpok.time, "sleep", listen)
    probe.main()
    assert (len(servers), restarted) == (1, [])
    servers[0].shutdown()
    servers[0].server_close()
