"""Load on a running deployment: requests that arrive at a rate (``generator``), and where they go (``targets``)."""
