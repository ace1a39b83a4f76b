"""``python -m pipeline.api``: the start command of the API service (``scoreline api`` runs it)."""

import argparse
import gc

import uvicorn

from pipeline.api.app import HotPath, create_app
from pipeline.ledger.rights import demand
from pipeline.settings import settings
from pipeline.telemetry.process_output import log_everything


def main() -> None:
    """Read the command line and serve until told to stop; requests under way are answered first."""
    parser = argparse.ArgumentParser(prog="scoreline api", description="Serve the HTTP API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    log_everything("api")
    demand(settings(), "service")
    app = HotPath(create_app())
    gc.collect()
    gc.freeze()  # what is loaded by now stays: it need not be walked again and again (as in tasks/child.py)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=35,
        lifespan="on",
        proxy_headers=False,
    )


main()
