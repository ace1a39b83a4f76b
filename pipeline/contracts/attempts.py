"""The account of a request's failed attempts: what each kind of failure charges, and what is kept of it.

Two sides write the account, and ``Attempts.charge`` is the definition for both. The judge (``pipeline.worker.judge``)
calls it for what a stage raised. A process that died can judge nothing: its batch is charged while it is released, by
``charged_to`` in ``release.lua``. ``tests/conformance/test_attempts.py`` gives both the same events and compares.

============================================ ======== =========================== ===========
what happened                                charges  makes it a suspect          written by
============================================ ======== =========================== ===========
its stage raised, or failed its row          a start  if it ends the process      judge
its process died, or was killed for its time a start  at once                     release.lua
its worker vanished: machine, network        a loss   with ``SUSPECT_LOSSES``     release.lua
its batch was given back: stop, drain        nothing  no                          release.lua
its process died while another batch ran     nothing  no                          release.lua
what it needs is down (``NotNow``)           nothing  no                          judge
its input is invalid: it ends                nothing  no                          judge
============================================ ======== =========================== ===========

Starts are evidence against the request, and few are allowed (``max_attempts``). Losses are not: nothing says that the
request made the worker vanish, so many are allowed (``max_losses``). A suspect runs alone until it ends: if its process
dies once more, no other request pays.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

KEPT_ERRORS = 20
"""So many of the latest errors are kept for each request."""
SUSPECT_LOSSES = 2
"""One vanished worker is bad luck. From so many on, the request may be the cause."""

Charge = Literal["start", "loss", "none"]
"""What a failure costs a request."""


class Attempt(NamedTuple):
    """One failed attempt: its number, time (Unix milliseconds), stage, error text, and the signal that killed it.

    ``category``: the kind of failure, see ``contracts.failures``.
    """

    n: int
    at: int
    stage: str
    error: str
    signal: str | None = None
    category: str = "unknown"


@dataclass(frozen=True, slots=True)
class Attempts:
    """What has gone wrong with a request so far; kept only once something has.

    ``starts``: attempts charged on evidence (exception, death of the process, time limit).
    ``losses``: its worker vanished, with no evidence against the request.
    ``suspect``: run it alone next time. ``errors``: the latest attempts, oldest first.
    """

    starts: int = 0
    losses: int = 0
    suspect: bool = False
    errors: tuple[Attempt, ...] = ()

    def charge(
        self,
        at_ms: int,
        stage: str,
        category: str,
        error: str,
        *,
        kind: Charge = "start",
        suspect: bool = False,
        signal: str | None = None,
    ) -> "Attempts":
        """The account after one more attempt that failed with ``error``.

        ``suspect``: there is evidence that the request ends the process that runs it. A loss never is evidence.
        """
        if kind == "none":
            return self
        starts, losses = self.starts + (kind == "start"), self.losses + (kind == "loss")
        suspect = self.suspect or (suspect if kind == "start" else losses >= SUSPECT_LOSSES)
        attempt = Attempt(starts + losses, at_ms, stage, error, signal, category)
        return Attempts(starts, losses, suspect, (*self.errors, attempt)[-KEPT_ERRORS:])


NO_ATTEMPTS = Attempts()
