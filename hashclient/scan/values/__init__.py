"""Values of a scan: its options, its work and results, and why an input was not read."""
