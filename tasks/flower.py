"""``python -m tasks.flower``: the start command of Flower over this project's workers, with Flower's options.

``celery -A tasks.app flower`` would put the working folder before everything else that modules are imported from.
"""

import sys

from tasks.app import app


def main() -> None:
    """Serves Flower until it is told to stop."""
    app.start(["flower", *sys.argv[1:]])


if __name__ == "__main__":
    main()
