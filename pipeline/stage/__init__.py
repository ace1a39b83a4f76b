"""What a stage sees of its worker: the protocols that it implements, and the search for offending rows."""
