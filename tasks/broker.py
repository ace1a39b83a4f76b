"""The broker: Celery carries bells. A bell says that a lane has work; it names no request.

A lost bell costs a second (the sweeper rings again), a bell that comes twice costs a claim that finds nothing. So there
is no result backend and no retry of tasks, and nothing depends on messages being restored.
"""

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Queue
from kombu.transport import redis as kombu_redis

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.settings import Settings
from pipeline.store.broker_connection import BrokerConnection, BrokerTlsConnection, StoreConnectionError
from pipeline.store.connection import WITHOUT_MAINTENANCE
from pipeline.store.errors import StoreError

RECONNECT_S = 0.5


class _Channel(kombu_redis.Channel):
    connection_class = BrokerConnection
    connection_class_ssl = BrokerTlsConnection

    refused: Exception | None = None
    """Why an ack was refused. With late acks and a prefetch of one, this channel would never deliver another bell."""

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledges a bell; remembers why the store refused it."""
        try:
            super().basic_ack(delivery_tag, multiple)
        except StoreError as error:
            self.refused = error
            raise

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return super()._connparams(asynchronous) | WITHOUT_MAINTENANCE


class StoreTransport(kombu_redis.Transport):
    """kombu's transport over connections that follow the primary; its own would ask a replica for bells for ever."""

    Channel = _Channel


class SteadyConnection(Connection):
    """A connection that is retried at one pace, after a long outage as after a short one.

    kombu's pauses grow by two seconds each. With those, workers went on up to eight seconds after the store was back
    from an outage of ten seconds and three more in which it loaded its file.
    """

    def get_transport_cls(self) -> type:
        """Returns the transport that carries bells."""
        return StoreTransport

    def _info(self, resolve: bool = True) -> tuple[tuple[str, Any], ...]:
        """Returns what kombu makes copies of this connection from, as its pools do."""
        info = dict(super()._info(resolve))
        return tuple((info if resolve else info | {"transport": StoreTransport}).items())

    def _init_params(self, **params: Any) -> None:  # type: ignore[override]
        if params["transport"] is StoreTransport:
            params["transport"] = "redis"  # a copy: its address is shown with a scheme
        super()._init_params(**params)

    def ensure_connection(self, *arguments: Any, **options: Any) -> Connection:
        """Connects, however often that has to be tried."""
        pauses = {"interval_start": RECONNECT_S, "interval_step": 0, "interval_max": RECONNECT_S}
        return super().ensure_connection(*arguments, **pauses | options)


class _SteadyAmqp(AMQP):
    Connection = SteadyConnection


def check_acks(consumer: Any) -> None:
    """Makes a Celery worker reconnect if an ack was refused: Celery itself would log that, and wait for ever."""
    refused = getattr(consumer.task_consumer.channel, "refused", None)
    if refused is not None:
        raise StoreConnectionError(f"a bell's ack was refused: {refused}")


def make_app(settings: Settings) -> Celery:
    """Makes the Celery app that all services share."""
    app = Celery("scoreline", broker=settings.store_url, backend=None, amqp=_SteadyAmqp)
    app.conf.update(
        broker_transport_options={
            # All keys under the ledger's tag: broker and ledger are one server, settle and bell one script.
            "global_keyprefix": keys.TAG,
            # The ledger recovers within seconds; kombu's redelivery must never race a running bell.
            "visibility_timeout": settings.visibility_timeout_s,
            "socket_keepalive": True,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # JSON only: a pickle in the queue is refused before it is parsed.
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        result_accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # A bell is acked when its task returns, after all commits. One whose task failed is acked too: its requests are
        # in the ledger, and a bell that is redelivered for ever would be a poison message.
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        # No time limits here: those are a batch's, not a bell's (see tasks/children.py).
        task_create_missing_queues=True,
        task_default_queue="unrouted",
        task_queues=[Queue(str(stage), routing_key=str(stage)) for stage in Stage],
        task_send_sent_event=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # A scoring child imports torch and warms its models before it says that it is up.
        worker_proc_alive_timeout=120,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=settings.bell_s + 2,
        worker_enable_soft_shutdown_on_idle=False,
        timezone="UTC",
        enable_utc=True,
    )
    return app
