"""What runs in a peer's own virtual environment: its servers, and what sends to them."""
