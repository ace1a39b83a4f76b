"""What Celery's connection to the store does while that is away."""

import pytest
from kombu.exceptions import OperationalError

from pipeline.settings import read_settings
from tasks.broker import RECONNECT_S, StoreTransport, make_app
from tests.conftest import free_port


def test_who_reconnects_pauses_no_longer_the_longer_it_takes() -> None:
    app = make_app(read_settings({"SCORELINE_STORE_URL": f"redis://127.0.0.1:{free_port()}/0"}))
    pauses: list[float] = []
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, pause: pauses.append(pause), 3)
    assert pauses == [RECONNECT_S] * 3


def test_every_connection_of_celery_follows_the_primary() -> None:
    app = make_app(read_settings({"SCORELINE_STORE_URL": "redis://127.0.0.1:1/0"}))
    with app.connection_for_read() as connection, app.connection_for_read() as other:
        pooled = connection.Pool(1).new()
        for each in (connection, other.clone(), pooled):
            assert each.get_transport_cls() is StoreTransport
        assert connection.clone().as_uri() == connection.as_uri()
        assert connection.as_uri().startswith("redis://")
