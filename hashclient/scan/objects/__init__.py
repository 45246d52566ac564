"""Scans of buckets: which objects are read, and the outcome of each."""
