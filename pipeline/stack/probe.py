"""superlance's httpok with its own way to ask again: ``python -m pipeline.stack.probe``, options as httpok's.

httpok is meant to ask again after ten seconds where nothing listens yet. Its connection hides that error from it, so it
restarts whatever does not listen within seconds of its start: a busy machine would never get beyond starting.
"""

import http.client
from typing import Any

from superlance import httpok, timeoutconn


class Connection(http.client.HTTPConnection):
    """A connection that raises why it could not connect, and can then be used again."""

    def request(self, *arguments: Any, **options: Any) -> None:
        """Sends a request; if that fails, the connection is as if nothing had been sent."""
        try:
            super().request(*arguments, **options)
        except OSError:
            self.close()
            raise


def main() -> None:
    """Probes until supervisord ends."""
    timeoutconn.TimeoutHTTPConnection = Connection
    httpok.main()


if __name__ == "__main__":
    main()
