"""Readers of files of digests and entries, one module a kind."""
