"""Scans of buckets: which objects are read, and what becomes of each."""
