"""A run of a scan or lookup: start it, record its outcomes, and act on its matches."""
