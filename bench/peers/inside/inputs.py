"""What all peers are sent."""

import itertools
from collections.abc import Iterator
from typing import Any

from pipeline.samples.credit_data import read_applications


def applications() -> Iterator[dict[str, Any]]:
    """Yields real applications without end, each with a price of its own."""
    rows = [row.features for row in read_applications()]
    for number, row in enumerate(itertools.cycle(rows)):
        yield row | {"Price": 100 + number % 9_000_000 / 1000}
