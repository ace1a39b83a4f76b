import json

import pytest

from bench.peers import environments
from bench.peers.measure import measure
from bench.peers.points import Point, curves, document, sized
from bench.rows import Row


def rounds(*figures):
    row = Row()
    for requests, seconds, cpu_s, latencies_ms in figures:
        row.add(requests, seconds, cpu_s, latencies_ms)
    return row


class Imaginary:
    """A system of which everything is known: 1,000 requests/s, 10 ms each."""

    def __init__(self, name, fails=""):
        self.name = name
        self.streams = ("stream",)
        self.curves = {"closed": "Imaginary"}
        self.fails = fails
        self.entered = 0

    def prepare(self):
        if self.fails == "install":
            raise environments.CannotInstall("no network")
        return {"imaginary": "1.0"}

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *_):
        pass

    def send(self, way, row, count, parallel):
        if self.fails == "send":
            raise RuntimeError("broken")
        row.add(count, count / 1000, count * 1e-4, [10.0] * count)


def test_a_round_takes_as_long_as_asked_within_its_bounds():
    """The pilot's rate says how many requests to send; never fewer or more than the bounds."""
    pilot = rounds((500, 1.0, 0.1, []))
    assert sized(pilot, 2.0, least=40, most=30_000) == 1000
    assert sized(pilot, 0.01, least=40, most=30_000) == 40
    assert sized(pilot, 1000, least=40, most=30_000) == 30_000


def test_figures_are_medians_and_only_waited_for_requests_have_latencies():
    """Medians and ranges over rounds; a stream's requests all wait at once, so their latencies say nothing."""
    latencies = [float(number) for number in range(1, 101)]
    row = rounds((100, 1.0, 0.01, latencies), (100, 0.5, 0.02, latencies), (100, 2.0, 0.03, latencies))
    closed, stream = document({Point("a", "http", 64): row, Point("a", "all", None): row})
    assert closed["requests_per_s"] == 100
    assert closed["requests_per_s_range"] == [50, 200]
    assert closed["cpu_us_per_request"] == 200
    assert closed["latency_ms"]["p50"] == pytest.approx(50.5, abs=0.5)
    assert closed["latency_ms"]["p99"] == pytest.approx(99.5, abs=0.7)
    assert stream["latency_ms"] == {"p50": None, "p99": None}


def test_a_curve_rises_with_its_clients_and_leaves_streams_out():
    """The plot joins the points of one closed way in the order of their clients."""
    row = rounds((100, 1.0, 0.01, [1.0, 2.0]))
    points = document({Point("a", "http", 64): row, Point("a", "all", None): row, Point("a", "http", 1): row})
    found = curves(points, {"a": {"http": "A, HTTP"}})
    assert {label: [point["clients"] for point in curve] for label, curve in found.items()} == {"A, HTTP": [1, 64]}


def test_who_cannot_be_installed_or_fails_is_named_and_the_others_are_measured():
    """One peer without a network, or one that breaks, costs its own figures alone."""
    whole, absent, broken = Imaginary("imaginary"), Imaginary("absent", "install"), Imaginary("broken", "send")
    found, failures = measure([absent, broken, whole], 3, "process", lambda _: None)
    assert failures == ["absent could not be installed: no network", "broken failed in round 1: broken"]
    assert {point["system"] for point in found["points"]} == {"imaginary"}
    assert [point["clients"] for point in found["points"]] == [None, 1, 4, 16, 64, 256]
    assert (whole.entered, absent.entered, broken.entered) == (3, 0, 1)
    json.dumps(found)


def test_an_environment_is_made_once_and_again_when_its_pins_change(tmp_path, monkeypatch):
    """What is installed is noted; the same requirements install nothing, and a failure says what pip said."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "installed.json").write_text('["x==1"]')
    assert environments.environment("some", ["x==1"]) == folder / "bin" / "python"
    monkeypatch.setattr(environments.sys, "executable", "/bin/false")
    with pytest.raises(environments.CannotInstall):
        environments.environment("some", ["x==2"])
