"""Celery, tuned: what its own guides advise for many short tasks, on the broker that Scoreline uses.

Set up after https://docs.celeryq.dev/en/stable/userguide/optimizing.html (a prefetch multiplier of 64 for many short
tasks; prefork with one process a core) and https://docs.celeryq.dev/en/stable/userguide/tasks.html#granularity (few
large messages instead of many small ones: one task does all three stages instead of a chain of three; where the
producer has many requests at hand, one message carries 64 of them). Besides: msgpack instead of JSON, hiredis, one open
connection to publish with, no gossip, mingle, heartbeats or events, no rate limits. Results stay in Valkey for a day,
as is Celery's default.

What it does not do that Scoreline does: it acknowledges a task when it starts, its default, so what a killed process
was running is gone; what its worker had prefetched comes back after the visibility timeout, an hour
(https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html). ``one, late acks`` runs again what
was running, at once if a child alone dies and after that hour if the whole worker does, and perhaps twice; a row that
kills its process does so again and again. Of 64 requests in a message, none has a state, a deadline or an end of its
own, and one bad row fails all. No idempotency, no dead letters, no admission.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, ClassVar

from bench.peers.peer import Peer


class TunedCelery(Peer):
    """One worker with a process for each core, and one producer."""

    name = "celery"
    requirements: ClassVar[tuple[str, ...]] = (
        "celery[redis]==5.7.0",
        "hiredis==3.5.0",
        "msgpack==1.2.4",
        "redis==8.1.0",
    )
    shown: ClassVar[tuple[str, ...]] = ("celery", "kombu", "redis")
    streams: ClassVar[tuple[str, ...]] = ("one a message", "one, late acks", "64 a message")
    curves: ClassVar[Mapping[str, str]] = {"one a message": "Celery, tuned"}
    app = "bench.peers.inside.celery_app"

    def launch(self, folder: Path, log: IO[bytes]) -> None:
        """Valkey, the worker, the producer."""
        url = self.start_broker(folder)
        quiet = ("--without-mingle", "--without-gossip", "--without-heartbeat")
        self.run(log, "celery", "-A", self.app, "worker", "-P", "prefork", *quiet, BENCH_PEER_URL=url)
        self.run(log, "bench.peers.inside.celery_sender", self.app, sends=True, BENCH_PEER_URL=url)
