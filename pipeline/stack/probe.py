"""superlance's httpok with its own way to ask again: ``python -m pipeline.stack.probe``, options as httpok's.

httpok means to ask again after ten seconds where nobody listens yet. Its connection hides that error from it, so it
restarts whatever has not begun to listen within seconds of its start: a busy machine would never get beyond starting.
The standard library's connection tells it.
"""

import http.client

from superlance import httpok, timeoutconn


def main() -> None:
    """Probe until supervisord ends."""
    timeoutconn.TimeoutHTTPConnection = http.client.HTTPConnection
    httpok.main()


if __name__ == "__main__":
    main()
