"""The proof: faults under load, and a check that every accepted request has ended once, with the right answer."""
