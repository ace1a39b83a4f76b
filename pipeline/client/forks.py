"""Forks: a child process starts again, and leaves alone what its parent has open.

A child has no thread of its parent's but the one that forked, and shares its sockets and what the kernel watches for
its event loops. Whatever is sent, closed or unregistered there, is so for the parent too.
"""

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

Client = TypeVar("Client")

_clients: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()
_of_parents: list[object] = []
"""Never collected: an object that closes itself when it is would do so for the parent."""


def watch(client: Client, begin_anew: Callable[[Client], object]) -> None:
    """Call ``begin_anew(client)`` in each child. It forgets what belongs to the parent, and returns that."""
    _clients[client] = begin_anew


def _in_child() -> None:
    _of_parents.extend(begin_anew(client) for client, begin_anew in list(_clients.items()))


if hasattr(os, "register_at_fork"):  # not where there are no forks
    os.register_at_fork(after_in_child=_in_child)
