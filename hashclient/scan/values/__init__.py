"""Values of a scan: its options, and why an input was not read."""
