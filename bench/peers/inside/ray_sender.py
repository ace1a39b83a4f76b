"""Ray Serve's asynchronous inference, started and sent to: see ``bench.peers.ray_serve``."""

import itertools
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler

from bench.peers.inside.inputs import applications
from bench.peers.inside.sender import Send, serve
from bench.peers.inside.work import Work

URL = os.environ["BENCH_PEER_URL"]
CONFIG = TaskProcessorConfig(
    queue_name="peers",
    adapter_config=CeleryAdapterConfig(
        broker_url=URL, backend_url=URL, app_custom_config={"worker_prefetch_multiplier": 64}
    ),
)
NAP_S = 0.001


@ray_serve.deployment(num_replicas=2, max_ongoing_requests=4, ray_actor_options={"num_cpus": 1})
@task_consumer(task_processor_config=CONFIG)
class Consumer:
    """A replica: takes tasks from the queue and runs all three stages."""

    def __init__(self) -> None:
        self._work = Work()

    @task_handler(name="score")
    def score(self, features: dict[str, Any]) -> dict[str, Any]:
        """One request."""
        return self._work.score([features])[0]


def _start() -> Mapping[str, Send]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    ray_serve.start(proxy_location="Disabled")
    ray_serve.run(Consumer.bind())  # type: ignore[attr-defined]
    adapter = instantiate_adapter_from_config(CONFIG)
    rows = applications()

    def send(count: int, parallel: int) -> tuple[float, list[float]]:
        left = itertools.islice(rows, count)
        unfinished: deque[tuple[str, float]] = deque()
        latencies_ms: list[float] = []

        def send_one() -> None:
            for features in itertools.islice(left, 1):
                sent = time.perf_counter()
                unfinished.append((adapter.enqueue_task_sync("score", kwargs={"features": features}).id, sent))

        began = time.perf_counter()
        for _ in range(parallel):
            send_one()
        # Results are polled for; they come nearly in order, so asking for the oldest alone saves most of the polls.
        while unfinished:
            task, sent = unfinished[0]
            status = adapter.get_task_status_sync(task)
            if status.status == "SUCCESS":
                unfinished.popleft()
                latencies_ms.append((time.perf_counter() - sent) * 1000)
                send_one()
            elif status.status == "FAILURE":
                raise RuntimeError(f"the task failed: {status.result}")
            else:
                time.sleep(NAP_S)
        return time.perf_counter() - began, latencies_ms

    return {"one a message": send}


if __name__ == "__main__":
    serve(_start)
