"""The local stack of ``scoreline up`` and ``scoreline demo``: one machine, every service, supervised.

``local``        the stack as one object: start, wait until ready, drain
``programs``     which processes there are, with their commands, ports and health
``models``       which models it serves, and their release; ``shipped``: those that need no proof
``supervision``  supervisord and a probe for each program: restarts what dies or hangs
``supervisord``, ``probe`` supervisord and superlance's httpok with what they lack
``store_server`` the embedded Valkey server at a durability level
"""


class StackError(Exception):
    """The stack cannot start or has failed; the message says what to do."""
