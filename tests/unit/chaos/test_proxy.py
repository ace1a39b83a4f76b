"""The chaos stack's network: a cut keeps everything back and loses nothing, even from who has gone."""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from chaos.proxy import ProxyProcess


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def proxy(server: socket.socket) -> Iterator[ProxyProcess]:
    with ProxyProcess(["a", "b"]) as running:
        running.target(server.getsockname()[1])
        yield running


def connected(server: socket.socket, proxy: ProxyProcess, name: str) -> tuple[socket.socket, socket.socket]:
    near = socket.create_connection(("127.0.0.1", proxy.ports[name]))
    far, _ = server.accept()
    for end in (near, far):
        end.settimeout(10)
    return near, far


def test_it_forwards_both_ways_and_ends_with_either_side(server: socket.socket, proxy: ProxyProcess) -> None:
    near, far = connected(server, proxy, "a")
    near.sendall(b"ping")
    assert far.recv(10) == b"ping"
    far.sendall(b"pong")
    assert near.recv(10) == b"pong"
    near.close()
    assert far.recv(10) == b""


def test_a_cut_holds_back_one_name_alone_and_delivers_when_it_is_over(
    server: socket.socket, proxy: ProxyProcess
) -> None:
    (near, far), (other_near, other_far) = (connected(server, proxy, name) for name in "ab")
    proxy.cut("a")
    other_near.sendall(b"passes")
    assert other_far.recv(10) == b"passes"
    near.sendall(b"late")
    near.close()  # it gives up: what it has sent is under way all the same
    far.settimeout(0.3)
    with pytest.raises(TimeoutError):
        far.recv(10)
    far.settimeout(10)
    proxy.restore("a")
    assert far.recv(10) == b"late"
    assert far.recv(10) == b""


def test_slowness_delays_answers_and_keeps_their_order(server: socket.socket, proxy: ProxyProcess) -> None:
    near, far = connected(server, proxy, "a")
    proxy.slow("a", 0.2)
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    sending = threading.Thread(target=lambda: [far.sendall(b"%d" % n) for n in range(10)])
    sending.start()
    received = b""
    while len(received) < 10:
        received += near.recv(10)
    sending.join()
    assert received == b"0123456789"


def test_what_came_before_a_reset_is_delivered_once(server: socket.socket, proxy: ProxyProcess) -> None:
    """A store that is killed resets its connections: its last answer must not be taken for the next one."""
    near, far = connected(server, proxy, "a")
    near.sendall(b"unread")
    far.sendall(b"answer")
    assert near.recv(10) == b"answer"
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    assert near.recv(10) == b""
