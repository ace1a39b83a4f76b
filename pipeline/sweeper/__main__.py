"""``python -m pipeline.sweeper``: the start command of a sweeper (``scoreline sweeper`` runs it)."""

import argparse

from pipeline.ledger.rights import demand, speaks_against
from pipeline.service.health import STUCK_S, HealthServer, Recent
from pipeline.service.signals import on_stop_signal
from pipeline.settings import settings
from pipeline.store.connection import connect
from pipeline.sweeper.loop import Sweeper
from pipeline.telemetry.events.services import HealthServed
from pipeline.telemetry.process_output import log_everything


def main() -> None:
    """Reads the command line and sweeps until it is told to stop."""
    parser = argparse.ArgumentParser(prog="scoreline sweeper", description="Run a sweeper.")
    parser.add_argument("--health-port", type=int, help="serve /livez and /readyz on this port (0: a free one)")
    options = parser.parse_args()
    log_everything("sweeper")
    demand(settings(), "service")
    sweeper = Sweeper(connect(settings()), settings())
    asking = connect(settings())
    refused = Recent(lambda: speaks_against(asking, settings(), "service"))
    on_stop_signal(sweeper.stop)

    def stuck() -> str:
        return "" if sweeper.turned_s_ago < STUCK_S else f"it has not swept for {sweeper.turned_s_ago:.0f} s"

    health = None
    if options.health_port is not None:
        health = HealthServer(
            options.health_port,
            live=stuck,
            ready=lambda: stuck() or refused() or sweeper.failure,
        )
        HealthServed(url=f"http://127.0.0.1:{health.port}/livez").emit()
    sweeper.run()
    if health is not None:
        health.stop()


if __name__ == "__main__":
    main()
