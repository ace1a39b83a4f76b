"""Stock Celery's configurations, and the application that producer and workers make from one of them."""

from collections.abc import Mapping
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


def configurations(short_timeout_s: float = 30.0) -> list[Configuration]:
    """The rows: late acks; with requeueing of what a dead child held; with a short visibility timeout besides."""
    requeue = {"task_reject_on_worker_lost": True}
    # kombu sweeps every 100 s by default; its documentation says to lower that for a short timeout.
    swept = {
        "visibility_timeout": short_timeout_s,
        "unacked_restore_interval": min(10.0, short_timeout_s / 3),
        "unacked_restore_throttle": 1,
    }
    return [
        Configuration("acks-late", {}),
        Configuration("requeue", requeue),
        Configuration("short-timeout", requeue | {"broker_transport_options": swept}, short_timeout_s),
    ]


def make_app(url: str, options: Mapping[str, Any], *, backend: bool = True) -> Celery:
    """The application over one server, as its broker and, with ``backend``, its result backend."""
    app = Celery("stock", broker=url, backend=url if backend else None)
    app.conf.update(COMMON | dict(options))
    return app


def task_name(stage: Stage) -> str:
    """The name of a stage's task."""
    return f"stock.{stage}"
