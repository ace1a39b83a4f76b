"""Ray Serve's asynchronous inference: replicas that take tasks from a queue, by its Celery adapter.

Set up after https://docs.ray.io/en/latest/serve/asynchronous-inference.html : a ``task_consumer`` on Valkey as broker
and result backend, a replica for each core, four threads in each (``max_ongoing_requests``), a prefetch multiplier of
64 by ``app_custom_config``. The producer calls the adapter itself (``enqueue_task_sync``, ``get_task_status_sync``);
the HTTP deployment of the guide's example would do the same behind one hop more, and is left out, as is the dashboard.
The adapter offers no way to wait for a result: it is polled for.

What it does not do that Scoreline does: it has no batches (a handler gets one task; ``serve.batch`` needs coroutines,
which the Celery adapter refuses). Late acks and ``reject_on_worker_lost`` are fixed; but the worker's threads live in
the replica, so when that is killed, its tasks come back only after Celery's visibility timeout (an hour), and may run
twice. Failures are tried again, and then go to a queue of failed tasks if one is named. No deadlines, no idempotency,
no admission. Its API is marked alpha.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, ClassVar

from bench.peers.peer import Peer


class RayServe(Peer):
    """One process starts Ray, deploys the consumer, and sends."""

    name = "ray-serve"
    requirements: ClassVar[tuple[str, ...]] = (
        "ray[serve-async-inference]==2.60.0",
        "celery[redis]==5.7.0",
        "hiredis==3.5.0",
    )
    shown: ClassVar[tuple[str, ...]] = ("ray", "celery", "redis")
    streams: ClassVar[tuple[str, ...]] = ("one a message",)
    curves: ClassVar[Mapping[str, str]] = {"one a message": "Ray Serve async"}

    def launch(self, folder: Path, log: IO[bytes]) -> None:
        """Valkey, then Ray with its producer."""
        url = self.start_broker(folder)
        self.run(
            log, "bench.peers.inside.ray_sender", sends=True, BENCH_PEER_URL=url,
            RAY_USAGE_STATS_ENABLED="0", RAY_TMPDIR=str(folder),
        )  # fmt: skip
