"""The values of a scan: its options, its work, its results, and why an input was not read."""
