"""Scans of buckets: which objects of a bucket are read, and the outcome of each object."""
