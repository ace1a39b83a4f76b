"""Servers that accept connections as a store does, and then fail in ways that a real one is hard to bring to."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class BadStore:
    """Answers each read of what a client sends with ``reply``; with nothing, it swallows everything."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._open: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.heard = threading.Event()
        """Something has been sent to it."""
        self.left = threading.Event()
        """A client has closed its connection."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                self.heard.set()
                if self._reply:
                    connection.sendall(self._reply)
        self.left.set()


def bad_store(reply: bytes) -> Iterator[BadStore]:
    store = BadStore(reply)
    yield store
    store.close()
