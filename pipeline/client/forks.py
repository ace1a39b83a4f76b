"""Forks: a child process starts again, and leaves alone what its parent has open.

A child has none of its parent's threads but the one that forked. It shares the parent's sockets, and what the kernel
watches for its event loops: whatever the child sends, closes or unregisters there affects the parent too.
"""

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

Client = TypeVar("Client")

_clients: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()
_of_parents: list[object] = []
"""Kept for ever: objects that close themselves when they are collected would do so for the parent."""


def reset_in_child(client: Client, reset: Callable[[Client], object]) -> None:
    """Call ``reset(client)`` in each forked child. It forgets what belongs to the parent, and returns it."""
    _clients[client] = reset


def _in_child() -> None:
    _of_parents.extend(reset(client) for client, reset in list(_clients.items()))


if hasattr(os, "register_at_fork"):  # not where there are no forks
    os.register_at_fork(after_in_child=_in_child)
