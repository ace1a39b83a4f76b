"""The local stack of ``scoreline up`` and ``scoreline demo``: one machine, every service, supervised.

``programs``    which processes there are, with their commands, ports and health
``store_server`` the embedded Valkey server at a durability level
``supervision`` supervisord and its httpok listeners: restarts what dies or hangs
``local``       the stack as one object: start, wait until ready, drain
"""


class StackError(Exception):
    """The stack cannot start or has fallen over; the message says what to do."""
