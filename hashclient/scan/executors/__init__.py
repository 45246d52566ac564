"""Executors: an executor runs the checking of the inputs of a scan."""
