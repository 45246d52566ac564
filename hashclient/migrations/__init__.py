"""Converts the state of earlier releases to the present version, and refuses any other state."""
