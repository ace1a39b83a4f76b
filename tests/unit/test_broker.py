"""What Celery's connection to the store does while that is away."""

import pytest
from kombu.exceptions import OperationalError

from pipeline.broker import RECONNECT_S, make_app
from pipeline.settings import read_settings
from tests.conftest import free_port


def test_who_reconnects_pauses_no_longer_the_longer_it_takes() -> None:
    app = make_app(read_settings({"SCORELINE_STORE_URL": f"redis://127.0.0.1:{free_port()}/0"}))
    pauses: list[float] = []
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, pause: pauses.append(pause), 3)
    assert pauses == [RECONNECT_S] * 3
