"""The health port of a process that has no web server: ``/livez`` and ``/readyz`` on loopback.

Live: its loop has turned within ten seconds, or it is reconnecting to the store, and none of its threads has ended.
Ready: it can take work, and the store takes its writes.
"""

import math
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.contracts.failures import describe
from pipeline.telemetry.events.services import HealthFailed

STUCK_S = 10.0
PAUSE_S = 0.5


class Pulse:
    """Knows when a loop last turned. While it is paused (reconnecting) the loop is not expected to turn."""

    def __init__(self) -> None:
        self._turned = time.monotonic()
        self._paused = False

    def turn(self) -> None:
        """Notes that the loop has turned."""
        self._turned = time.monotonic()
        self._paused = False

    def pause(self) -> None:
        """Notes that the loop will not turn until the store is back."""
        self._paused = True

    @property
    def beating(self) -> bool:
        """Whether the loop has turned recently."""
        return self._paused or time.monotonic() - self._turned < STUCK_S


class Recent:
    """A check whose answer holds for a second: however often the health port is asked, the store is asked once."""

    HOLDS_S = 1.0

    def __init__(self, check: Callable[[], str]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._answer, self._asked = "", -math.inf

    def __call__(self) -> str:
        """Returns what is wrong, in words; empty if nothing is."""
        with self._lock:
            if time.monotonic() - self._asked >= self.HOLDS_S:
                self._answer = self._check()
                self._asked = time.monotonic()
            return self._answer


class HealthServer:
    """Serves ``/livez`` and ``/readyz`` from a thread; the port is free after ``stop``."""

    def __init__(self, port: int, *, live: Callable[[], str], ready: Callable[[], str]) -> None:
        """``live`` and ``ready`` return what is wrong, in words; empty if nothing is. ``port`` 0: a free one."""
        checks = {"/livez": live, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                check = checks.get(self.path)
                try:
                    wrong = "not found" if check is None else check()
                except Exception as error:  # noqa: BLE001 - an answer says more than a connection that drops
                    wrong = f"the check fails: {describe(error)}"
                status = 404 if check is None else 503 if wrong else 200
                body = f"{wrong or 'ok'}\n".encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Logs nothing: probes are not worth a line each."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._stopping = False
        threading.Thread(target=self._serve, name="health", daemon=True).start()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._server.serve_forever()
            except BaseException as error:  # noqa: BLE001 - or whoever asks gets no answer ever again
                HealthFailed(error=describe(error)).emit(error)
                time.sleep(PAUSE_S)

    def stop(self) -> None:
        """Closes the port."""
        self._stopping = True
        self._server.shutdown()
        self._server.server_close()
