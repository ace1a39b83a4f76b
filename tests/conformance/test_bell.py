"""The bell that the scripts push is the message that stock Celery would have sent: a stock worker takes either."""

import base64
import json

import pytest
import redis

from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import TAG
from tasks.broker import make_app
from tests.support.ledger import Ledger

LEFT_TO_US = {"id", "root_id", "origin", "argsrepr", "stamps", "stamped_headers"}
"""Headers that may differ: ids are short and counted; ``argsrepr`` is what Flower shows."""


def body_of(message: dict) -> list:
    encoded = message["properties"].get("body_encoding") == "base64"
    return json.loads(base64.b64decode(message["body"]) if encoded else message["body"])


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
@pytest.mark.parametrize("stage", list(Stage))
def test_a_bell_is_the_message_that_celery_sends(ledger: Ledger, valkey: str, stage: Stage) -> None:
    lane = ledger.lane(stage).name
    store = redis.Redis.from_url(valkey)

    app = make_app(ledger.settings)
    with app.connection_for_write() as connection:
        app.send_task(f"{stage}.run", args=[lane], queue=str(stage), connection=connection, ignore_result=True)
    theirs = json.loads(store.lpop(TAG + stage))
    ledger.client.zadd(TAG + "q:" + lane, {b"0" * 16: 1})
    assert ledger.scripts.ring(args=[lane, 0, "0"]) == b"rung"
    ours = json.loads(store.lpop(TAG + stage))

    assert set(ours) == set(theirs)
    assert body_of(ours) == body_of(theirs)
    assert body_of(ours)[0] == [lane]
    assert ours["content-type"] == theirs["content-type"] == "application/json"
    assert {name: value for name, value in ours["headers"].items() if name not in LEFT_TO_US} == {
        name: value for name, value in theirs["headers"].items() if name not in LEFT_TO_US
    }
    assert set(theirs["properties"]) - set(ours["properties"]) <= {"body_encoding"}
    assert ours["properties"]["delivery_info"] == theirs["properties"]["delivery_info"]
    assert ours["properties"]["correlation_id"] == ours["headers"]["id"]
