"""Holding, reading and removing a matched object: one module for each kind of place."""
