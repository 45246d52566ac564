"""Isolators, which open, read and remove a matched file or object."""
