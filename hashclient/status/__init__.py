"""Reads the status of a state directory, for people and for Prometheus."""
