"""Holding, reading and removing what matched at its place: one module for each kind of place."""
