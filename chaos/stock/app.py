"""Stock Celery's configurations, and the application that producer and workers make from one of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery

from pipeline.contracts.stages import Stage


@dataclass(frozen=True, slots=True)
class Configuration:
    """One row of the table: what is set beyond Celery's defaults and ``COMMON``."""

    name: str
    options: Mapping[str, Any]
    visibility_timeout_s: float = 3600.0


COMMON: dict[str, Any] = {
    "task_acks_late": True,
    "worker_prefetch_multiplier": 1,
    "task_routes": {f"stock.{stage}": {"queue": str(stage)} for stage in Stage},
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "worker_proc_alive_timeout": 60,  # a child that imports torch on a busy machine
}


def configurations(timeouts_s: Iterable[float] = (30.0, 5.0)) -> list[Configuration]:
    """Returns the rows: late acks; what a dead child held requeued, too; the latter with each visibility timeout."""
    requeue = {"task_reject_on_worker_lost": True}
    return [
        Configuration("acks-late", {}),
        Configuration("requeue", requeue),
        *(
            Configuration(
                f"timeout-{timeout_s:g}s", requeue | {"broker_transport_options": _redelivered(timeout_s)}, timeout_s
            )
            for timeout_s in timeouts_s
        ),
    ]


def _redelivered(timeout_s: float) -> dict[str, float]:
    """Returns kombu's options for a visibility timeout.

    kombu 5.7 restores what is overdue every 100 s: each 10 s, and only one time in ten. Its documentation
    says to lower both for a short timeout.
    """
    return {
        "visibility_timeout": timeout_s,
        "unacked_restore_interval": min(10.0, timeout_s / 3),
        "unacked_restore_throttle": 1,
    }


def make_app(url: str, options: Mapping[str, Any], *, backend: bool = True) -> Celery:
    """Returns the application over one server: its broker and, with ``backend``, its result backend."""
    app = Celery("stock", broker=url, backend=url if backend else None)
    app.conf.update(COMMON | dict(options))
    return app


def task_name(stage: Stage) -> str:
    """Returns the name of a stage's task."""
    return f"stock.{stage}"
