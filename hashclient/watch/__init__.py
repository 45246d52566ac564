"""Watched directories and buckets: files and objects are checked when they change."""
